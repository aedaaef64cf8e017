//! Which methods the paths know, as the document says: who asks for another is told so, whatever else is wrong.

use std::collections::BTreeMap;

use axum::extract::MatchedPath;
use axum::http::Method;
use utoipa::openapi::OpenApi;

/// Methods by route.
pub(super) struct Methods(BTreeMap<String, Vec<Method>>);

impl Methods {
    pub(super) fn of(document: &OpenApi) -> Self {
        let routes = document.paths.paths.iter().map(|(route, item)| {
            let known = [
                (Method::GET, item.get.is_some()),
                (Method::HEAD, item.get.is_some()),
                (Method::POST, item.post.is_some()),
                (Method::PUT, item.put.is_some()),
                (Method::PATCH, item.patch.is_some()),
                (Method::DELETE, item.delete.is_some()),
            ];
            (route.clone(), known.into_iter().filter(|(_, known)| *known).map(|(method, _)| method).collect())
        });
        Self(routes.collect())
    }

    /// Whether a request comes to an endpoint. What is not in the document knows what any page knows.
    pub(super) fn know(&self, route: Option<&MatchedPath>, method: &Method) -> bool {
        let Some(route) = route.map(MatchedPath::as_str) else { return false };
        let documented = if route.starts_with("/scheduler/") { &*format!("/v1{route}") } else { route };
        match self.0.get(documented) {
            Some(known) => known.contains(method),
            None => matches!(*method, Method::GET | Method::HEAD),
        }
    }
}
