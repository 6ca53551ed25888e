//! Requests and what they do.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::patch;
use super::path::{self, Target};
use super::state::{Key, State, Streaming};
use super::stream;

type Options = BTreeMap<String, String>;

pub(super) async fn answer(
    Shared(state): Shared<Arc<State>>,
    method: Method,
    uri: Uri,
    Query(options): Query<Options>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    state.note(format!("{method} {uri}"));
    if uri.path() == "/version" {
        let version = json!({"major": "1", "minor": "35", "gitVersion": "v1.35.4", "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
        return Json(version).into_response();
    }
    let Some(target) = path::parse(uri.path()) else { return status(StatusCode::NOT_FOUND, "NotFound") };
    if !state.is_served(&target.resource) {
        return status(StatusCode::NOT_FOUND, "NotFound");
    }
    if state.is_forbidden(&target.resource) {
        return status(StatusCode::FORBIDDEN, "Forbidden");
    }
    let content: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (&method, target.name.clone()) {
        (&Method::GET, None) => read_all(&state, target, &options),
        (&Method::POST, None) => create(&state, &target, content),
        (_, Some(name)) => {
            // Both merge lists of conditions by type; whose fields are whose in server-side apply is not told apart.
            let strategic = headers.get("content-type").is_some_and(|kind| {
                let kinds: [&[u8]; 2] = [b"application/strategic", b"application/apply"];
                kinds.iter().any(|start| kind.as_bytes().starts_with(start))
            });
            let key = (target.resource, target.namespace, name);
            one(&state, &method, &key, content, strategic)
        }
        _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

fn read_all(state: &Arc<State>, target: Target, options: &Options) -> Response {
    let set = |name: &str| options.get(name).is_some_and(|text| text == "true");
    if set("watch") {
        let initial = set("sendInitialEvents");
        match state.streaming() {
            Streaming::Refused if initial => return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
            Streaming::Broken if initial => return stream::broken().into_response(),
            Streaming::Served | Streaming::Refused | Streaming::Broken => {}
        }
        let version = options.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        return stream::events(state, target, version, initial).into_response();
    }
    let (items, version) = state.list(&target.resource, &target.namespace);
    let (kind, api_version) = kind_of(&items);
    let list = json!({"kind": format!("{kind}List"), "apiVersion": api_version,
        "metadata": {"resourceVersion": version.to_string()}, "items": items});
    Json(list).into_response()
}

/// Kind and version of what a list holds: typed clients, those of Go, take nothing else. Nobody knows an empty one's.
pub(super) fn kind_of(items: &[Value]) -> (&str, &str) {
    let word = |name: &str| items.first().and_then(|item| item[name].as_str());
    (word("kind").unwrap_or_default(), word("apiVersion").unwrap_or("v1"))
}

fn create(state: &State, target: &Target, mut object: Value) -> Response {
    if !target.namespace.is_empty() {
        object["metadata"]["namespace"] = json!(target.namespace);
    }
    if object["metadata"]["name"].is_null() {
        let stem = object["metadata"]["generateName"].as_str().unwrap_or("object-").to_owned();
        object["metadata"]["name"] = json!(format!("{stem}{}", state.version()));
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if state.get(&(target.resource.clone(), target.namespace.clone(), name)).is_some() {
        return status(StatusCode::CONFLICT, "AlreadyExists");
    }
    (StatusCode::CREATED, Json(state.put(&target.resource, object))).into_response()
}

fn one(state: &State, method: &Method, key: &Key, mut content: Value, strategic: bool) -> Response {
    let Some(mut object) = state.get(key) else { return status(StatusCode::NOT_FOUND, "NotFound") };
    let claimed = &content["metadata"]["resourceVersion"];
    let outdated = !claimed.is_null() && *claimed != object["metadata"]["resourceVersion"];
    match *method {
        Method::GET => Json(object).into_response(),
        Method::DELETE => Json(state.delete(key)).into_response(),
        Method::PUT | Method::PATCH if outdated => status(StatusCode::CONFLICT, "Conflict"),
        Method::PUT => {
            // An absent namespace is the URL's.
            if !key.1.is_empty() {
                content["metadata"]["namespace"] = json!(key.1);
            }
            Json(state.put(&key.0, content)).into_response()
        }
        Method::PATCH => {
            patch::merge(&mut object, &content, strategic);
            Json(state.put(&key.0, object)).into_response()
        }
        _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

fn status(code: StatusCode, reason: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code.as_u16()});
    (code, [("content-type", "application/json")], Body::from(body.to_string())).into_response()
}
