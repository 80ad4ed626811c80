//! The upstream services for payments, orders, courses and users: an HTTP server on a loopback
//! port. The server delays each answer like a real service, and counts the calls.

use crate::model::{Course, Order, Payment, PaymentState, Profile};
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, put};
use axum::{Json, Router};
use std::collections::HashMap;
use std::f64::consts::TAU;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The courses of the catalogue, in order of popularity.
pub(crate) const COURSES: [&str; 24] = [
    "rust-basics",
    "async-rust",
    "sql-for-everyone",
    "statistics",
    "web-design",
    "photography",
    "spanish-a1",
    "public-speaking",
    "drawing",
    "bookkeeping",
    "guitar",
    "linear-algebra",
    "gardening",
    "first-aid",
    "chess",
    "typography",
    "italian-b1",
    "pottery",
    "astronomy",
    "negotiation",
    "embedded-rust",
    "calligraphy",
    "beekeeping",
    "sailing",
];

/// The three services. The calls of each are counted separately.
pub(crate) const SERVICES: [Service; 3] = [
    Service { name: "payments", median_ms: 18.0 },
    Service { name: "orders and courses", median_ms: 9.0 },
    Service { name: "users", median_ms: 6.0 },
];

pub(crate) struct Service {
    pub(crate) name: &'static str,
    median_ms: f64,
}

impl Service {
    /// Returns how long the `n`th call takes. The time is log-normal around the median, and one
    /// call in a hundred is six times slower. The time depends only on `n`, so all runs have the
    /// same delays.
    fn latency(&self, n: u64) -> Duration {
        let mut dice = Dice::new(n ^ self.median_ms.to_bits());
        let tail = if dice.below(100) == 0 { 6.0 } else { 1.0 };
        Duration::from_secs_f64(self.median_ms * (0.45 * dice.normal()).exp() * tail / 1_000.0)
    }
}

/// A running upstream server. Dropping the value ends the server.
pub(crate) struct Upstream {
    pub(crate) url: String,
    calls: Arc<CallCounters>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct CallCounters {
    by_service: [AtomicU64; SERVICES.len()],
    /// The calls that change nothing. Only their answers are cached.
    reads: AtomicU64,
}

impl Upstream {
    /// Starts the server on a free loopback port.
    pub(crate) async fn start() -> io::Result<Upstream> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let calls = Arc::new(CallCounters::default());
        let services = Router::new()
            .route("/payments/{number}/{state}", get(payment))
            .route("/orders/{number}", put(place_order))
            .route("/orders/{number}/{revision}", get(order))
            .route("/courses/{catalogue}/{slug}", get(course))
            .route("/users/{id}", get(profile).put(change_profile))
            .with_state(Arc::new(ServiceRecords::default()))
            .layer(middleware::from_fn_with_state(Arc::clone(&calls), take_time));
        let server = tokio::spawn(async move {
            // `axum::serve` retries a failed `accept`, so it ends only with the task.
            let _ = axum::serve(listener, services).await;
        });
        Ok(Upstream { url, calls, server })
    }

    /// Returns the number of calls that each of the [`SERVICES`] has received.
    pub(crate) fn calls(&self) -> [u64; SERVICES.len()] {
        self.calls.by_service.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Returns a closure that reads how many calls have changed nothing.
    pub(crate) fn read_counter(&self) -> impl Fn() -> u64 + Send + use<> {
        let calls = Arc::clone(&self.calls);
        move || calls.reads.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Counts a call and delays its answer.
async fn take_time(
    State(calls): State<Arc<CallCounters>>,
    request: Request,
    next: Next,
) -> Response {
    let service = match request.uri().path().split('/').nth(1) {
        Some("payments") => 0,
        Some("users") => 2,
        _ => 1,
    };
    let n = calls.by_service[service].fetch_add(1, Ordering::Relaxed);
    if request.method() == Method::GET {
        calls.reads.fetch_add(1, Ordering::Relaxed);
    }
    tokio::time::sleep(SERVICES[service].latency(n)).await;
    next.run(request).await
}

/// The orders and emails that clients have stored. Everything else in the answers is computed from
/// the path of the request.
#[derive(Default)]
struct ServiceRecords {
    orders: Mutex<HashMap<String, Order>>,
    emails: Mutex<HashMap<String, String>>,
}

type Shared = State<Arc<ServiceRecords>>;

async fn payment(
    State(records): Shared,
    Path((number, state)): Path<(String, PaymentState)>,
) -> Json<Payment> {
    let orders = records.orders.lock().unwrap_or_else(PoisonError::into_inner);
    let place = orders.get(&number).and_then(|order| place_of(&order.course));
    Json(Payment {
        number,
        state,
        amount_cents: price_cents(place.unwrap_or(0)),
        currency: "EUR".into(),
        method: "bank transfer".into(),
    })
}

fn place_of(slug: &str) -> Option<usize> {
    COURSES.iter().position(|known| *known == slug)
}

fn price_cents(place: usize) -> u64 {
    4_900 + 500 * place as u64
}

async fn place_order(
    State(records): Shared,
    Path(number): Path<String>,
    Json(order): Json<Order>,
) -> StatusCode {
    records.orders.lock().unwrap_or_else(PoisonError::into_inner).insert(number, order);
    StatusCode::CREATED
}

async fn order(
    State(records): Shared,
    Path((number, revision)): Path<(String, u32)>,
) -> Result<Json<Order>, StatusCode> {
    let orders = records.orders.lock().unwrap_or_else(PoisonError::into_inner);
    orders
        .get(&number)
        .map(|order| Json(Order { revision, ..order.clone() }))
        .ok_or(StatusCode::NOT_FOUND)
}

async fn course(Path((catalogue, slug)): Path<(u64, String)>) -> Result<Json<Course>, StatusCode> {
    let place = place_of(&slug).ok_or(StatusCode::NOT_FOUND)?;
    let title = slug.replace('-', " ");
    let description =
        format!("{title}, as edition {catalogue} of the catalogue has it. ").repeat(12);
    Ok(Json(Course { slug, title, price_cents: price_cents(place), description }))
}

async fn profile(State(records): Shared, Path(id): Path<String>) -> Json<Profile> {
    let known = records.emails.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
    Json(Profile {
        name: format!("user {id}"),
        email: known.unwrap_or_else(|| format!("{id}@example.com")),
        id,
    })
}

async fn change_profile(
    State(records): Shared,
    Path(id): Path<String>,
    Json(email): Json<String>,
) -> Json<Profile> {
    records.emails.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), email.clone());
    Json(Profile { name: format!("user {id}"), email, id })
}

/// A deterministic random number generator (SplitMix64). With it, every run makes the same calls.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Returns a number in `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Returns a number in `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number from the standard normal distribution, by the method of Box and Muller.
    fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.unit(), self.unit());
        (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
    }
}
