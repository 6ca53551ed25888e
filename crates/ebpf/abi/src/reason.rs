//! Why a packet was dropped, refused or forwarded: the one table behind counters, events, docs and texts.

/// What a [`Reason`] means for the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Forward,
    /// It ends here, silently.
    Drop,
    /// It ends here, and the sender is told by RST or ICMP.
    Refuse,
}

macro_rules! reasons {
    ($( $variant:ident = $number:literal, $verdict:ident, $name:literal, $text:literal; )*) => {
        /// Why a packet was dropped, refused or forwarded. Numbers and names are stable.
        #[repr(u16)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $( #[doc = $text] $variant = $number, )*
        }

        impl Reason {
            /// Every reason, by number.
            pub const ALL: &'static [Reason] = &[ $( Reason::$variant, )* ];

            /// The reason with this number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $( $number => Some(Reason::$variant), )* _ => None }
            }

            /// Stable name, as in metrics and events.
            pub const fn name(self) -> &'static str {
                match self { $( Reason::$variant => $name, )* }
            }

            /// One sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $( Reason::$variant => $text, )* }
            }

            /// What it means for the packet.
            pub const fn verdict(self) -> Verdict {
                match self { $( Reason::$variant => Verdict::$verdict, )* }
            }
        }
    };
}

reasons! {
    Forwarded = 1, Forward, "forwarded", "Delivered to a local pod.";
    ToNode = 2, Forward, "to_node", "Sent to another node.";
    ToWorld = 3, Forward, "to_world", "Sent outside the cluster.";
    ToStack = 4, Forward, "to_stack", "Handed to the node's own network stack.";
    FromNode = 5, Forward, "from_node", "Made by this node's own stack, which always reaches its pods.";
    PolicyAudited = 6, Forward, "policy_audited", "The pod's policy would have denied it, and the pod is in audit: it went on.";
    PolicyDenied = 16, Drop, "policy_denied", "No rule of the policies that select the pod allows it.";
    NotReady = 17, Drop, "not_ready", "The pod's policy is not in place yet.";
    SourceSpoofed = 18, Drop, "source_spoofed", "The pod used a source address or Ethernet address that is not its own.";
    TunnelSpoofed = 19, Drop, "tunnel_spoofed", "The node that sent it does not own the source address inside.";
    TunnelPort = 20, Drop, "tunnel_port", "Pods may not send to a node's tunnel port.";
    NoSuchPod = 21, Drop, "no_such_pod", "The address belongs to this node's range, but to no pod.";
    Unreachable = 22, Drop, "unreachable", "The address is in a pod range that no node owns.";
    NoEndpoints = 23, Refuse, "no_endpoints", "The Service has no ready endpoint; for SCTP, none with the port that the client used.";
    BackendGone = 24, Refuse, "backend_gone", "The endpoint this connection used was removed.";
    SnatExhausted = 25, Drop, "snat_exhausted", "No free source port towards this remote end; raise nat.ports. SCTP keeps its own, which another flow has.";
    Malformed = 26, Drop, "malformed", "The headers are cut short or contradict each other.";
    UnknownVni = 27, Drop, "unknown_vni", "The tunnel packet carries a network identifier that is not in use.";
    FragmentUnknown = 28, Drop, "fragment_unknown", "A later fragment arrived without its first.";
    PodGone = 29, Refuse, "pod_gone", "The pod at the other end of this connection was removed.";
    UnsupportedProtocol = 30, Drop, "unsupported_protocol", "Neither IPv4, IPv6 nor ARP.";
    NoLocalEndpoints = 32, Drop, "no_local_endpoints", "The Service wants endpoints of this node, and all are on others.";
    TooBig = 33, Refuse, "too_big", "It came to a node port and does not fit the way to the endpoint's node.";
    SourceRange = 34, Drop, "source_range", "The client is in none of the ranges that the Service admits.";
    NoSuchService = 35, Drop, "no_such_service", "The address is in a range of Services, but no Service has it.";
    NoServicePort = 36, Refuse, "no_service_port", "The Service at this address has no such port for this client.";
    NotDirect = 37, Drop, "not_direct", "Another node passed it on for a direct answer, but it is of no flow to a Service and a pod of this node.";
    MapFull = 31, Drop, "map_full", "A table of the kernel is full; see sheetbend status.";
}
