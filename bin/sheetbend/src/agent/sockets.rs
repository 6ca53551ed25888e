//! Sockets that are connected to what is gone.

use std::path::PathBuf;
use std::sync::Arc;

use imbl::OrdMap;
use sheetbend_apply::bpf::Kernel;
use sheetbend_apply::netlink;
use sheetbend_model::state::{Attachment, AttachmentId};
use tracing::{debug, warn};

/// Ends UDP sockets of this node's processes and pods whose backend went with the last Plan. In the background: there is
/// a namespace to visit for each pod.
pub(super) fn end_left(kernel: &mut Kernel, attachments: &OrdMap<AttachmentId, Arc<Attachment>>) {
    let cookies = match kernel.sockets_left() {
        Ok(cookies) if cookies.is_empty() => return,
        Ok(cookies) => cookies,
        Err(error) => return warn!("sockets of removed backends are not ended: {error}"),
    };
    let pods = attachments.values().map(|attachment| Some(PathBuf::from(&*attachment.netns)));
    let places: Vec<Option<PathBuf>> = [None].into_iter().chain(pods).collect();
    std::thread::spawn(move || {
        let mut left = cookies.len();
        for place in places {
            match netlink::end_udp_sockets(place.as_deref(), &cookies) {
                Ok(ended) => left = left.saturating_sub(ended),
                // The pod may have gone, and its sockets with it.
                Err(error) => debug!("sockets of removed backends: {error}"),
            }
            if left == 0 {
                break;
            }
        }
        debug!(sockets = cookies.len(), left, "ended sockets of removed backends");
    });
}
