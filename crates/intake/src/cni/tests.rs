#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::wire::{self, AttachmentRef, CniError, Request, Response, code};
use super::{Handler, Server};

/// Answers every request with an error that repeats it.
struct Echo;

impl Handler for Echo {
    async fn handle(&self, request: Request) -> Response {
        Response::Error(CniError::new(code::TRY_AGAIN, format!("{request:?}"), ""))
    }
}

fn call(path: &std::path::Path, text: &[u8]) -> Response {
    let stream = UnixStream::connect(path).unwrap();
    std::io::Write::write_all(&mut &stream, text).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    wire::read(&stream).unwrap()
}

fn served<T>(test: impl FnOnce(&std::path::Path) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cni.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _guard = runtime.enter();
    runtime.spawn(Server::bind(&path).unwrap().serve(Arc::new(Echo)));
    test(&path)
}

#[test]
fn a_request_is_answered() {
    let request = Request::Del(AttachmentRef { container_id: "c1".to_owned(), ifname: "eth0".to_owned() });
    let response = served(|path| call(path, &serde_json::to_vec(&request).unwrap()));
    assert_eq!(response, Response::Error(CniError::new(code::TRY_AGAIN, format!("{request:?}"), "")));
}

#[test]
fn nonsense_is_answered_with_the_way_out() {
    let response = served(|path| call(path, b"{\"command\":\"DANCE\"}"));
    let Response::Error(error) = response else { panic!("{response:?}") };
    assert_eq!(error.code, code::DECODE);
    assert!(error.details.contains("install the sheetbend-cni"), "{error}");
}

#[test]
fn a_second_agent_takes_the_path_over() {
    served(|path| {
        let second = Server::bind(path).unwrap();
        assert!(UnixStream::connect(path).is_ok());
        drop(second);
        assert!(UnixStream::connect(path).is_err(), "the first agent must not be found any more");
    });
}
