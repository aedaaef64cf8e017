//! Which methods and parameters the paths know, as the document says: who asks for another is told so, whatever else is
//! wrong.

use std::collections::BTreeMap;

use axum::extract::{MatchedPath, Query};
use axum::http::{Method, Uri};
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr};

use super::error::ApiError;
use crate::wire::shape::{clip, nearest};

/// Methods by route, each with the parameters of its query.
pub(super) struct Methods(BTreeMap<String, Vec<(Method, Vec<String>)>>);

impl Methods {
    pub(super) fn of(document: &OpenApi) -> Self {
        let routes = document.paths.paths.iter().map(|(route, item)| {
            let known = [
                (Method::GET, &item.get),
                (Method::HEAD, &item.get),
                (Method::POST, &item.post),
                (Method::PUT, &item.put),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ];
            let known = known.into_iter().filter_map(|(method, operation)| {
                operation.as_ref().map(|operation| (method, parameters(operation)))
            });
            (route.clone(), known.collect())
        });
        Self(routes.collect())
    }

    /// Whether a request comes to an endpoint. What is not in the document knows what any page knows.
    pub(super) fn know(&self, route: Option<&MatchedPath>, method: &Method) -> bool {
        let Some(route) = route.map(MatchedPath::as_str) else { return false };
        match self.0.get(&documented(route)) {
            Some(known) => known.iter().any(|(known, _)| known == method),
            None => matches!(*method, Method::GET | Method::HEAD),
        }
    }

    /// The first parameter that an endpoint does not know: whoever misspells `outcome` does not want all runs.
    pub(super) fn stray(&self, route: Option<&MatchedPath>, method: &Method, uri: &Uri) -> Option<Stray> {
        let route = documented(route?.as_str());
        let (_, known) = self.0.get(&route)?.iter().find(|(known, _)| known == method)?;
        // What cannot be read at all is refused by whoever reads it.
        let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
        let (name, _) = given.iter().find(|(name, _)| !known.contains(name))?;
        let hint = match (nearest(name, known.iter().map(String::as_str)), known.as_slice()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, []) => "this endpoint knows none".into(),
            (None, known) => format!("known are {}", known.join(", ")),
        };
        Some(Stray { name: clip(name), hint })
    }
}

/// A parameter that is not known.
pub(super) struct Stray {
    name: String,
    hint: String,
}

impl Stray {
    /// Whether it is refused at a path. The endpoints of Chronos overlooked what they did not know, and whoever probes or
    /// scrapes a server adds what he likes.
    pub(super) fn is_refused(path: &str) -> bool {
        path.starts_with("/v1/") && !path.starts_with("/v1/scheduler/")
    }

    pub(super) fn refusal(self) -> ApiError {
        ApiError::invalid(&self.name, format!("unknown parameter `{}`", self.name)).hint(self.hint)
    }

    pub(super) fn warning(&self) -> String {
        format!("unknown parameter `{}` was ignored; {}", self.name, self.hint)
    }
}

/// The endpoints of Chronos have two prefixes, of which the document has one.
fn documented(route: &str) -> String {
    if route.starts_with("/scheduler/") { format!("/v1{route}") } else { route.into() }
}

fn parameters(operation: &Operation) -> Vec<String> {
    let all = operation.parameters.iter().flatten().filter_map(|it| match it {
        RefOr::T(it) => Some(it),
        RefOr::Ref(_) => None,
    });
    all.filter(|it| it.parameter_in == ParameterIn::Query).map(|it| it.name.clone()).collect()
}
