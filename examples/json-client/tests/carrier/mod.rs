//! A parcel carrier for the tests: an HTTP server that counts the requests it receives.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// The only recipient that the carrier knows.
pub(crate) const ADA: Uuid = Uuid::from_u128(0xada);

/// A depot to which a parcel can be redirected.
pub(crate) const DEPOT: Uuid = Uuid::from_u128(0xde);

/// A running carrier. Dropping the value ends the server.
pub(crate) struct Carrier {
    pub(crate) base_url: String,
    state: Arc<CarrierState>,
    server: JoinHandle<()>,
}

/// The carrier's data, and the settings for its answers.
#[derive(Default)]
struct CarrierState {
    /// The requests so far, such as `GET /parcels/7/events`, including the requests for a token.
    requests: Mutex<Vec<String>>,
    events: Mutex<Vec<Value>>,
    ada: Mutex<Value>,
    /// The number of the token that is accepted.
    token: AtomicU32,
    is_failing: AtomicBool,
    is_lagging: AtomicBool,
}

impl Carrier {
    /// Starts a carrier on a free port. Each answer takes 20 ms.
    pub(crate) async fn start() -> Carrier {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let base_url = format!("http://{}", listener.local_addr().expect("the port is bound"));
        let state = Arc::new(CarrierState::default());
        *lock(&state.events) = vec![json!({ "kind": "announced", "at": "2026-03-01T08:00:00Z" })];
        *lock(&state.ada) = json!({
            "id": ADA,
            "name": "Ada",
            "preferences": { "doorbell": false, "floors": [1, 2.5, null] },
        });
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&state));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Carrier { base_url, state, server }
    }

    /// Returns the number of requests so far, without those for a token.
    pub(crate) fn requests(&self) -> usize {
        lock(&self.state.requests).iter().filter(|request| *request != "POST /token").count()
    }

    /// Returns the number of requests for a token so far.
    pub(crate) fn token_requests(&self) -> usize {
        lock(&self.state.requests).iter().filter(|request| *request == "POST /token").count()
    }

    /// Refuses the tokens that were issued so far.
    pub(crate) fn revoke_tokens(&self) {
        self.state.token.fetch_add(1, Ordering::SeqCst);
    }

    /// While `is_failing` is true, every request except a request for a token is answered with
    /// status 503.
    pub(crate) fn fail(&self, is_failing: bool) {
        self.state.is_failing.store(is_failing, Ordering::SeqCst);
    }

    /// While `is_lagging` is true, a request for a revision of a parcel is answered with the
    /// revision before it.
    pub(crate) fn lag(&self, is_lagging: bool) {
        self.state.is_lagging.store(is_lagging, Ordering::SeqCst);
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    State(state): State<Arc<CarrierState>>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let method = request.method().as_str().to_owned();
    let path = request.uri().path().to_owned();
    lock(&state.requests).push(format!("{method} {path}"));
    tokio::time::sleep(Duration::from_millis(20)).await;

    let token = format!("token {}", state.token.load(Ordering::SeqCst));
    if path == "/token" {
        return Json(json!({ "access_token": token, "expires_in": 300 })).into_response();
    }
    let bearer = request.headers().get(header::AUTHORIZATION);
    if bearer.is_none_or(|bearer| *bearer != *format!("Bearer {token}")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if state.is_failing.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let parameter = |name: &str| {
        query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
    };
    match state.find(&method, &segments, parameter, body) {
        Some(answer) => Json(answer).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

impl CarrierState {
    /// Returns the body of an answer, or `None` if nothing is at this path.
    fn find<'q>(
        &self,
        method: &str,
        path: &[&str],
        parameter: impl Fn(&str) -> &'q str,
        body: Value,
    ) -> Option<Value> {
        let found = match (method, path) {
            ("GET", ["parcels"]) => json!({ "items": [parcel(parameter("query"), 1)], "next": 2 }),
            ("GET", ["parcels", number, "revisions", revision]) => {
                let lag = u32::from(self.is_lagging.load(Ordering::SeqCst));
                parcel(number, revision.parse::<u32>().ok()? - lag)
            }
            ("GET", ["parcels", _, "events"]) => Value::Array(lock(&self.events).clone()),
            ("GET", ["parcels", number, "customs"]) => json!({
                "number": number,
                "goods": [{ "text": "books", "cents": 4200, "weight": 1.25 }],
                "stamp": null,
            }),
            ("POST", ["parcels", _, "redirect"]) => {
                let at = "2026-03-02T09:30:00.250Z";
                let event = json!({ "kind": "redirected", "at": at, "depot": body["depot"] });
                lock(&self.events).push(event);
                json!({})
            }
            // The carrier ignores a country that it does not know.
            ("GET", ["depots"]) if parameter("country") == "XX" => {
                json!([depot("NO"), depot("SE")])
            }
            ("GET", ["depots"]) => json!([depot(parameter("country"))]),
            ("GET", ["rates"]) => json!([
                { "service": "express", "price": 1900, "days": 1 },
                { "service": "parcel", "price": 700 },
                { "service": "freight", "price": { "contact": "freight@carrier.example" } },
            ]),
            ("GET", ["recipients", id]) if *id == ADA.to_string() => lock(&self.ada).clone(),
            ("PUT", ["recipients", id]) if *id == ADA.to_string() => {
                *lock(&self.ada) = body.clone();
                body
            }
            ("GET", ["config"]) => json!({ "max_weight_grams": 30_000, "countries": ["NO", "SE"] }),
            _ => return None,
        };
        Some(found)
    }
}

fn parcel(number: &str, revision: u32) -> Value {
    json!({
        "number": number,
        "revision": revision,
        "state": "in_transit",
        "length_mm": 300,
        "width_mm": 200,
        "weight_grams": 1250,
    })
}

fn depot(country: &str) -> Value {
    json!({
        "id": DEPOT,
        "name": format!("Depot of {country}"),
        "country": country,
        "opening_hours": { "mon": "08-18", "sat": "09-13" },
        "ramps": 4,
        "contact": { "phone": "0800" },
    })
}
