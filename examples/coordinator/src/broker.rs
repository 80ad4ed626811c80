//! The broker (or *coordinator*): the service that customers use, and that calls the upstream
//! services.
//!
//! The first part shows how a program uses the library: each expensive function has one attribute.
//! The rest is an ordinary HTTP service, which calls these functions as if there were no cache.

use crate::model::{Course, Order, Payment, PaymentState, Profile};
use crate::report::AnswerSourceCounters;
use axum::extract::{Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use cached_core::tower::{CacheStatus, RequestScopeLayer};
use cached_core::{Cache, coordinator_cached, first_found};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

// ----------------------------------------------------------------------------- the annotated calls

/// Fetches a payment. A payment changes only when its state changes, so the state is the version in
/// the key.
///
/// Each state has its own entry, and no entry is ever overwritten. A broker can ask for an outdated
/// state, so `cache_if` rejects a payment whose state is not the one in the key. Two clients can
/// call different upstreams, so the key includes the upstream's address.
#[coordinator_cached(
    name = "payment",
    identifier = (client.base.as_str(), number),
    version = state,
    cache_if = |payment| payment.state == state,
    entry = payment_entry
)]
async fn fetch_payment(
    client: &Client,
    number: &str,
    state: PaymentState,
) -> Result<Payment, UpstreamError> {
    client.get(&["payments", number, &state.to_string()]).await
}

/// Fetches a course of one edition of the catalogue.
///
/// A hit clones only the `Arc`, however long the description is. If the course does not exist, the
/// answer is `None`, which is not cached.
#[coordinator_cached(
    name = "course",
    identifier = (client.base.as_str(), slug),
    version = catalogue,
    ttl = "2h"
)]
async fn fetch_course(
    client: &Client,
    slug: &str,
    catalogue: u64,
) -> Result<Option<Arc<Course>>, UpstreamError> {
    match client.get(&["courses", &catalogue.to_string(), slug]).await {
        Ok(course) => Ok(Some(Arc::new(course))),
        Err(UpstreamError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Client {
    /// Fetches an order. Methods are annotated like functions; the key has the field of `self` that
    /// the answer depends on.
    #[coordinator_cached(
        name = "order",
        identifier = (self.base.as_str(), number),
        version = revision,
        cache_if = |order| order.revision == revision
    )]
    async fn order(&self, number: &str, revision: u32) -> Result<Order, UpstreamError> {
        self.get(&["orders", number, &revision.to_string()]).await
    }

    /// Fetches a profile. A profile has no version, so a change overwrites the entry. The option
    /// `overwrite` compiles only with a `reason`.
    #[coordinator_cached(
        name = "profile",
        identifier = (self.base.as_str(), id),
        overwrite(reason = "users edit their profile during checkout, and it carries no version"),
        ttl = "10m",
        entry = profile_entry
    )]
    async fn profile(&self, id: &str) -> Result<Profile, UpstreamError> {
        self.get(&["users", id]).await
    }
}

// --------------------------------------------------------------------- the client of the upstreams

/// An HTTP client of the upstream services.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
}

/// The error of an upstream call. The type is `Clone`, so all callers that wait for one fetch share
/// its error.
#[derive(Debug, Clone)]
pub(crate) enum UpstreamError {
    NotFound(String),
    Failed(String),
}

impl Client {
    /// # Errors
    /// Returns an error if `base` is not an `http` URL.
    pub(crate) fn new(base: &str) -> Result<Client, String> {
        let base = Url::parse(base).ok().filter(|base| base.scheme() == "http");
        let base = base.ok_or("it must be a URL such as http://127.0.0.1:8080")?;
        Ok(Client { http: http_client(), base })
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, UpstreamError> {
        let answer = self.send(Method::GET, path, &()).await?;
        answer
            .json()
            .await
            .map_err(|error| UpstreamError::Failed(format!("{}: {error}", path.join("/"))))
    }

    /// Sends a request. Requests that change something are never cached.
    async fn send(
        &self,
        method: Method,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<reqwest::Response, UpstreamError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.http.request(method.clone(), url);
        let request = if method == Method::GET { request } else { request.json(body) };
        let failed =
            |error: reqwest::Error| UpstreamError::Failed(format!("{}: {error}", path.join("/")));
        let answer = request.send().await.map_err(failed)?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(UpstreamError::NotFound(path.join("/")));
        }
        answer.error_for_status().map_err(failed)
    }
}

/// Returns an HTTP client without a proxy, and with a timeout for every request.
pub(crate) fn http_client() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10));
    builder.build().expect("a client without TLS can always be built")
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamError::NotFound(what) => write!(out, "{what} does not exist"),
            UpstreamError::Failed(why) => write!(out, "the upstream call failed: {why}"),
        }
    }
}

impl std::error::Error for UpstreamError {}

impl IntoResponse for UpstreamError {
    fn into_response(self) -> Response {
        let status = match self {
            UpstreamError::NotFound(_) => StatusCode::NOT_FOUND,
            UpstreamError::Failed(_) => StatusCode::BAD_GATEWAY,
        };
        (status, format!("{self}\n")).into_response()
    }
}

// -------------------------------------------------------------------------------- the HTTP service

/// One instance of the broker.
#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) cache: Cache,
    pub(crate) client: Client,
    /// The current edition of the catalogue.
    pub(crate) catalogue: u64,
    pub(crate) checkouts: Checkouts,
}

/// The state of each checkout, as the payment provider has reported it to this broker. The provider
/// sends each report to every broker.
#[derive(Clone, Default)]
pub(crate) struct Checkouts(Arc<Mutex<HashMap<String, PaymentState>>>);

impl Checkouts {
    fn state(&self, number: &str) -> PaymentState {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.get(number).copied().unwrap_or(PaymentState::Created)
    }

    fn move_to(&self, number: String, state: PaymentState) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, state);
    }
}

/// The page that a customer's browser requests again and again until the payment is complete.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatusPage {
    pub(crate) signed_in_as: String,
    pub(crate) order: String,
    pub(crate) course: String,
    pub(crate) payment: PaymentState,
    pub(crate) amount_cents: u64,
    /// The address to which the receipt was sent. `None` until the payment is paid.
    pub(crate) receipt: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CoursePage {
    pub(crate) signed_in_as: String,
    pub(crate) slug: String,
    pub(crate) title: String,
    pub(crate) price_cents: u64,
}

#[derive(Deserialize)]
struct VisitorQuery {
    #[serde(default = "VisitorQuery::guest")]
    user: String,
}

impl VisitorQuery {
    fn guest() -> String {
        "guest".to_string()
    }
}

#[derive(Deserialize)]
struct NewOrderQuery {
    user: String,
    course: String,
}

#[derive(Deserialize)]
struct PaymentStateQuery {
    state: Option<PaymentState>,
}

impl Broker {
    /// Returns curl commands to try with a broker that listens on `address`.
    pub(crate) fn routes(address: &str) -> String {
        [
            "'http://{}/courses/rust-basics?user=ada'",
            "http://{}/users/ada",
            "-X PUT http://{}/users/ada/email -d ada@example.org",
            "-X PUT 'http://{}/orders/17?user=ada&course=rust-basics'",
            "-X PUT http://{}/payments/17/processing",
            "http://{}/orders/17",
            "'http://{}/payments/17?state=paid'",
            "http://{}/payments/17/known",
            "http://{}/stats",
            "http://{}/health",
            "http://{}/ledger",
            "http://{}/metrics",
        ]
        .map(|arguments| format!("  curl {}\n", arguments.replace("{}", address)))
        .concat()
    }

    /// Returns the routes. Each request uses the cache of this broker, and has its own request
    /// scope, so that a key has only one answer during the request. The header `Cache-Status` says
    /// how the request's calls were answered.
    pub(crate) fn router(self) -> Router {
        let scopes = RequestScopeLayer::new()
            .cache(self.cache.clone())
            .force_miss_if(asks_for_fresh_answers)
            .cache_status(CacheStatus::new("broker").detail(true));
        Router::new()
            .route("/courses/{slug}", get(course_page))
            .route("/orders/{number}", get(status_page).put(place_order))
            .route("/payments/{number}", get(payment))
            .route("/payments/{number}/known", get(known_payment))
            .route("/payments/{number}/{state}", put(payment_moved))
            .route("/users/{id}", get(user))
            .route("/users/{id}/email", put(change_email))
            .layer(scopes)
            .route(
                "/stats",
                get(async |State(broker): State<Broker>| broker.cache.stats().to_string()),
            )
            .route(
                "/counters",
                get(async |State(broker): State<Broker>| {
                    Json(AnswerSourceCounters::from(broker.cache.stats().total()))
                }),
            )
            .route("/health", get(health))
            .route("/ledger", get(async |State(broker): State<Broker>| ledger_page(&broker.cache)))
            .route("/", get(index))
            .with_state(self)
    }

    async fn course(&self, slug: &str) -> Result<Arc<Course>, UpstreamError> {
        let course = fetch_course(&self.client, slug, self.catalogue).await?;
        course.ok_or_else(|| UpstreamError::NotFound(format!("courses/{slug}")))
    }
}

/// Returns true if the client does not want cached answers. Every cached function that the request
/// calls then fetches its answer again.
fn asks_for_fresh_answers(request: &Parts) -> bool {
    request.headers.get("cache-control").is_some_and(|value| value == "no-cache")
}

/// Answers 200 even while memcached is lost. The broker can still answer every request then, so a
/// load balancer must not take the broker out of rotation.
async fn health(State(broker): State<Broker>) -> String {
    format!("the broker is up; its cache is {}\n", broker.cache.health())
}

/// Returns the ledger, which lists the annotated functions. Below the list are the problems that an
/// audit found, and the functions that are not worth caching.
fn ledger_page(cache: &Cache) -> String {
    let ledger = cached_core::ledger();
    let findings = ledger.audit().into_iter().chain(ledger.not_worth_caching(cache));
    let findings: String = findings.map(|finding| format!("\n- {finding}")).collect();
    format!("{ledger}\n{findings}\n")
}

async fn index(headers: HeaderMap) -> String {
    let host = headers.get("host").and_then(|host| host.to_str().ok());
    Broker::routes(host.unwrap_or("127.0.0.1"))
}

async fn course_page(
    State(broker): State<Broker>,
    Path(slug): Path<String>,
    Query(visitor): Query<VisitorQuery>,
) -> Result<Json<CoursePage>, UpstreamError> {
    let (profile, course) =
        tokio::try_join!(broker.client.profile(&visitor.user), broker.course(&slug))?;
    Ok(Json(CoursePage {
        signed_in_as: profile.email,
        slug,
        title: course.title.clone(),
        price_cents: course.price_cents,
    }))
}

async fn place_order(
    State(broker): State<Broker>,
    Path(number): Path<String>,
    Query(NewOrderQuery { user, course }): Query<NewOrderQuery>,
) -> Result<(StatusCode, String), UpstreamError> {
    tokio::try_join!(broker.client.profile(&user), broker.course(&course))?;
    let order = Order { number: number.clone(), revision: 1, user, course };
    broker.client.send(Method::PUT, &["orders", &number], &order).await?;
    let placed = format!("order {number} is placed\n");
    broker.checkouts.move_to(number, PaymentState::Created);
    Ok((StatusCode::CREATED, placed))
}

async fn status_page(
    State(broker): State<Broker>,
    Path(number): Path<String>,
) -> Result<Json<StatusPage>, UpstreamError> {
    let state = broker.checkouts.state(&number);
    let revision = if state == PaymentState::Paid { 2 } else { 1 };
    let (order, payment) = tokio::try_join!(
        broker.client.order(&number, revision),
        fetch_payment(&broker.client, &number, state)
    )?;
    let (profile, course) =
        tokio::try_join!(broker.client.profile(&order.user), broker.course(&order.course))?;
    let receipt = match payment.state {
        PaymentState::Paid => Some(receipt_address(&broker.client, &order).await?),
        PaymentState::Created | PaymentState::Processing => None,
    };
    Ok(Json(StatusPage {
        signed_in_as: profile.email,
        order: order.number,
        course: course.slug.clone(),
        payment: payment.state,
        amount_cents: payment.amount_cents,
        receipt,
    }))
}

/// Returns the address for the receipt. The status page has already called `profile` for this user,
/// so the request tier answers this call, and both parts of the page show the same address.
async fn receipt_address(client: &Client, order: &Order) -> Result<String, UpstreamError> {
    Ok(client.profile(&order.user).await?.email)
}

/// Handles the payment provider's report that a payment has a new state.
async fn payment_moved(
    State(broker): State<Broker>,
    Path((number, state)): Path<(String, PaymentState)>,
) -> String {
    let moved = format!("payment {number} is {state}\n");
    broker.checkouts.move_to(number, state);
    moved
}

async fn payment(
    State(broker): State<Broker>,
    Path(number): Path<String>,
    Query(PaymentStateQuery { state }): Query<PaymentStateQuery>,
) -> Result<Json<Payment>, UpstreamError> {
    let state = state.unwrap_or_else(|| broker.checkouts.state(&number));
    Ok(Json(fetch_payment(&broker.client, &number, state).await?))
}

/// Returns the payment in the latest state that the cache has. Never calls an upstream service.
async fn known_payment(
    State(broker): State<Broker>,
    Path(number): Path<String>,
) -> Result<Json<Payment>, UpstreamError> {
    let states = [PaymentState::Paid, PaymentState::Processing, PaymentState::Created];
    let known =
        first_found(states.map(|state| payment_entry(&broker.client, &number, state))).await;
    known
        .map(Json)
        .ok_or_else(|| UpstreamError::NotFound(format!("cached states of payment {number}")))
}

async fn user(
    State(broker): State<Broker>,
    Path(id): Path<String>,
) -> Result<Json<Profile>, UpstreamError> {
    Ok(Json(broker.client.profile(&id).await?))
}

async fn change_email(
    State(broker): State<Broker>,
    Path(id): Path<String>,
    email: String,
) -> Result<Json<Profile>, UpstreamError> {
    let answer = broker.client.send(Method::PUT, &["users", &id], &email).await?;
    let profile: Profile =
        answer.json().await.map_err(|error| UpstreamError::Failed(error.to_string()))?;
    // Without the overwrite, other calls would return the old address for up to ten minutes.
    if let Err(error) = broker.client.profile_entry(&id).overwrite(profile.clone()).await {
        eprintln!("the new profile of {id} could not be cached: {error}");
    }
    Ok(Json(profile))
}
