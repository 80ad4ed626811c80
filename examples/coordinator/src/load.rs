//! Generates the example's load: the checkout sessions of many customers. Like a browser, each
//! session sends HTTP requests to a *broker*, the example's web service.

use crate::agreement::CacheStatusTotals;
use crate::broker::{CoursePage, StatusPage, http_client};
use crate::model::PaymentState;
use crate::processes::{BrokerProcess, MemcachedProcess, answers};
use crate::report::{Outage, Run, Snapshot};
use crate::upstream::{COURSES, Dice, Upstream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::de::DeserializeOwned;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const SESSIONS: u64 = 120;
const CONCURRENT_SESSIONS: usize = 20;
/// The pause of a browser between two requests. A real browser waits for a second or two. This load
/// is faster.
const PAUSE: Duration = Duration::from_millis(8);
/// The pause between two requests while somebody watches the broker. The longer pause leaves the
/// machine time for the watcher's browser.
const CALM_PAUSE: Duration = Duration::from_millis(60);

/// The checkout sessions, which [`play`](CheckoutWorkload::play) can run several times.
pub(crate) struct CheckoutWorkload {
    sessions: Vec<CheckoutSession>,
    /// A number that is part of every identifier. If the number is new, memcached has no entries
    /// for these identifiers.
    run: u64,
}

#[derive(Clone)]
struct CheckoutSession {
    user: String,
    number: String,
    /// The courses that the customer looks at. The customer buys the last course.
    courses: Vec<&'static str>,
    /// True if the customer corrects the email address.
    corrects: bool,
    /// The number of requests for the status page in each state of the payment.
    polls: [(PaymentState, u64); 3],
}

impl CheckoutWorkload {
    pub(crate) fn new(run: u64) -> CheckoutWorkload {
        let mut dice = Dice::new(20);
        let sessions = (1..=SESSIONS).map(|n| CheckoutSession::draw(&mut dice, run, n)).collect();
        CheckoutWorkload { sessions, run }
    }

    /// Returns how many requests all sessions make together.
    pub(crate) fn requests(&self) -> u64 {
        self.sessions.iter().map(CheckoutSession::requests).sum()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns how often a browser requests the status page of one payment, on average.
    pub(crate) fn polls(&self) -> u64 {
        let polls: u64 =
            self.sessions.iter().flat_map(|session| session.polls).map(|(_, polls)| polls).sum();
        polls / SESSIONS
    }

    /// Plays the load with new broker processes and new upstream services. If a memcached is given,
    /// it is killed during the run, and started again later.
    pub(crate) async fn play(
        &self,
        label: &'static str,
        cache_url: &str,
        brokers: usize,
        memcached: Option<MemcachedProcess>,
    ) -> Result<Run, String> {
        let upstream = Upstream::start()
            .await
            .map_err(|error| format!("cannot start the upstream server: {error}"))?;
        let mut processes = Vec::new();
        for _ in 0..brokers {
            processes.push(BrokerProcess::start(cache_url, &upstream.url, self.run).await?);
        }
        let progress = Arc::new(Progress::new(label, self.requests()));
        let places = Arc::new(Semaphore::new(CONCURRENT_SESSIONS));
        let browser = Browser {
            http: http_client(),
            brokers: processes.iter().map(|broker| broker.url.clone()).collect(),
            at: 0,
            pause: PAUSE,
            progress: Arc::clone(&progress),
        };
        let outage = memcached.map(|memcached| tokio::spawn(interrupt(memcached, browser.clone())));
        let started = Instant::now();
        let mut sessions = JoinSet::new();
        for (n, session) in self.sessions.iter().cloned().enumerate() {
            let places = Arc::clone(&places);
            let browser = Browser { at: n, ..browser.clone() };
            sessions.spawn(async move {
                let _place = places.acquire_owned().await;
                session.play(browser).await
            });
        }
        let mut waits = Vec::new();
        while let Some(session) = sessions.join_next().await {
            waits.extend(session.map_err(|error| format!("a session ended early: {error}"))??);
        }
        let took = started.elapsed();
        progress.finish();
        let end = browser.snapshot().await?;
        let outage = match outage {
            Some(outage) => Some(outage.await.map_err(|error| error.to_string())??),
            None => None,
        };
        Ok(Run::new(upstream.calls(), waits, took, end, outage))
    }
}

/// Kills memcached when two fifths of the requests are answered, and starts it again, empty, after
/// three fifths. Returns snapshots of the brokers' counters at these times.
async fn interrupt(memcached: MemcachedProcess, browser: Browser) -> Result<Outage, String> {
    browser.progress.reach(2, 5).await;
    let killed = browser.snapshot().await?;
    let port = memcached.kill().await;
    browser.progress.reach(3, 5).await;
    let restarted = browser.snapshot().await?;
    let started_again = MemcachedProcess::start_on(port).await;
    let is_restarted = started_again.is_some();
    // The new memcached runs until the load has been played.
    browser.progress.reach(1, 1).await;
    drop(started_again);
    Ok(Outage { killed, restarted, is_restarted })
}

/// Plays checkout sessions against a running broker, until `closing` is set. Several customers play
/// at the same time, and each plays one session after the other. Returns the counts that were
/// collected from the response headers.
pub(crate) async fn play_until_closed(broker: String, closing: ClosingFlag) -> CacheStatusTotals {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let run = now.map_or(0, |time| time.as_micros() as u64);
    let progress = Arc::new(Progress::until(closing));
    let browser = Browser {
        http: http_client(),
        brokers: [broker].into(),
        at: 0,
        pause: CALM_PAUSE,
        progress: Arc::clone(&progress),
    };
    let mut customers = JoinSet::new();
    for customer in 0..CONCURRENT_SESSIONS as u64 {
        let browser = browser.clone();
        customers.spawn(async move {
            let mut dice = Dice::new(run ^ customer);
            for session in 0.. {
                let session = CheckoutSession::draw(&mut dice, run, customer << 32 | session);
                let played = session.play(browser.clone()).await;
                if browser.progress.closing.is_set() {
                    break;
                }
                if let Err(message) = played {
                    eprintln!("a session ended early: {message}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        });
    }
    while customers.join_next().await.is_some() {}
    drop(browser);
    Arc::into_inner(progress).map(|progress| progress.headers).unwrap_or_default()
}

/// A flag that tells the customers to send no more requests.
#[derive(Clone, Default)]
pub(crate) struct ClosingFlag(Arc<AtomicBool>);

impl ClosingFlag {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl CheckoutSession {
    fn draw(dice: &mut Dice, run: u64, n: u64) -> CheckoutSession {
        let courses = (0..2 + dice.below(3)).map(|_| popular_course(dice)).collect();
        CheckoutSession {
            user: format!("{run:x}-{n}"),
            number: format!("{run:x}-{n}"),
            courses,
            corrects: dice.below(10) == 0,
            polls: [
                (PaymentState::Created, 1 + dice.below(3)),
                (PaymentState::Processing, 15 + dice.below(10)),
                (PaymentState::Paid, 2 + dice.below(2)),
            ],
        }
    }

    /// Returns how many requests the customer makes: course pages, the order, status pages, and
    /// maybe a corrected address.
    fn requests(&self) -> u64 {
        let polls: u64 = self.polls.iter().map(|(_, polls)| polls).sum();
        self.courses.len() as u64 + 1 + u64::from(self.corrects) + polls
    }

    /// Plays the session. Returns the time that the customer waited for each request.
    async fn play(self, mut browser: Browser) -> Result<Vec<Duration>, String> {
        let CheckoutSession { user, number, courses, corrects, polls } = self;
        let mut waits = Vec::new();
        let mut email = format!("{user}@example.com");
        let mut bought = "";
        for slug in courses {
            let page: CoursePage =
                browser.get(&mut waits, &format!("/courses/{slug}?user={user}")).await?;
            expect("course", slug, &page.slug)?;
            expect("address", &email, &page.signed_in_as)?;
            bought = slug;
        }
        browser
            .put(&mut waits, &format!("/orders/{number}?user={user}&course={bought}"), "")
            .await?;
        if corrects {
            email = format!("{user}@example.org");
            browser.put(&mut waits, &format!("/users/{user}/email"), &email).await?;
        }
        for (state, polls) in polls {
            browser.webhook(&format!("/payments/{number}/{state}")).await?;
            for poll in 0..polls {
                if state == PaymentState::Processing && poll == polls / 2 {
                    // The customer continues on a phone. The phone uses the next broker.
                    browser.at += 1;
                }
                let page: StatusPage =
                    browser.get(&mut waits, &format!("/orders/{number}")).await?;
                expect("order", &number, &page.order)?;
                expect("course", bought, &page.course)?;
                expect("state", &state.to_string(), &page.payment.to_string())?;
                expect("address", &email, &page.signed_in_as)?;
            }
        }
        Ok(waits)
    }
}

/// Checks an answer. The cache must not save calls by giving wrong answers.
fn expect(what: &str, expected: &str, answered: &str) -> Result<(), String> {
    if expected == answered {
        return Ok(());
    }
    Err(format!("a wrong answer: the {what} is {expected}, and the broker answered {answered}"))
}

/// Draws a course by Zipf's law: the second most popular course is drawn half as often as the
/// first, the third a third as often, and so on.
fn popular_course(dice: &mut Dice) -> &'static str {
    let weight = |place: usize| 1.0 / (place + 1) as f64;
    let mut left = dice.unit() * (0..COURSES.len()).map(weight).sum::<f64>();
    for (place, course) in COURSES.iter().enumerate() {
        left -= weight(place);
        if left <= 0.0 {
            return course;
        }
    }
    COURSES[0]
}

/// The browser of a customer.
#[derive(Clone)]
struct Browser {
    http: reqwest::Client,
    brokers: Arc<[String]>,
    /// The index of the broker that serves this customer.
    at: usize,
    /// The pause before each request.
    pause: Duration,
    progress: Arc<Progress>,
}

impl Browser {
    async fn get<T: DeserializeOwned>(
        &mut self,
        waits: &mut Vec<Duration>,
        path: &str,
    ) -> Result<T, String> {
        let request = self.http.get(self.url(path));
        let answer = self.timed(waits, request).await?;
        answer.json().await.map_err(|error| format!("{path}: {error}"))
    }

    async fn put(
        &mut self,
        waits: &mut Vec<Duration>,
        path: &str,
        body: &str,
    ) -> Result<(), String> {
        let request = self.http.put(self.url(path)).body(body.to_string());
        self.timed(waits, request).await.map(drop)
    }

    /// Sends the payment provider's report to every broker. No customer waits for this report.
    async fn webhook(&self, path: &str) -> Result<(), String> {
        for broker in self.brokers.iter() {
            let answer = self.http.put(format!("{broker}{path}")).send().await;
            answer
                .and_then(reqwest::Response::error_for_status)
                .map_err(|error| format!("{path}: {error}"))?;
        }
        Ok(())
    }

    /// Returns a snapshot of the brokers' counters.
    async fn snapshot(&self) -> Result<Snapshot, String> {
        let requests = self.progress.done.load(Ordering::Relaxed);
        Ok(Snapshot { requests, answers: answers(&self.http, &self.brokers).await? })
    }

    async fn timed(
        &self,
        waits: &mut Vec<Duration>,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, String> {
        tokio::time::sleep(self.pause).await;
        if self.progress.closing.is_set() {
            return Err("the broker closes".to_owned());
        }
        let started = Instant::now();
        let answer = request.send().await.map_err(|error| error.to_string())?;
        waits.push(started.elapsed());
        self.progress.headers.add(answer.headers());
        self.progress.one_more();
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(format!(
            "the broker answered {}: {}",
            answer.status(),
            answer.text().await.unwrap_or_default().trim_end()
        ))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.brokers[self.at % self.brokers.len()])
    }
}

/// Counts the requests of a run, and shows the progress on standard error. On a terminal it shows a
/// bar. Otherwise it writes one line for each quarter of the requests.
struct Progress {
    label: &'static str,
    bar: Option<ProgressBar>,
    total: u64,
    done: AtomicU64,
    closing: ClosingFlag,
    headers: CacheStatusTotals,
}

impl Progress {
    fn new(label: &'static str, total: u64) -> Progress {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(
                "{prefix:18} [{wide_bar}] {pos}/{len} requests, {eta} left",
            );
            bar.set_style(
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "),
            );
            bar.with_prefix(label)
        });
        Progress { label, bar, total, ..Progress::until(ClosingFlag::default()) }
    }

    /// Returns a progress that shows nothing, and that ends when the flag is set.
    fn until(closing: ClosingFlag) -> Progress {
        let (done, headers) = (AtomicU64::new(0), CacheStatusTotals::default());
        Progress { label: "", bar: None, total: u64::MAX, done, closing, headers }
    }

    fn one_more(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        match &self.bar {
            Some(bar) => bar.inc(1),
            None if done * 4 / self.total != (done - 1) * 4 / self.total => {
                eprintln!("{}: {done} of {} requests", self.label, self.total);
            }
            None => {}
        }
    }

    /// Waits until this fraction of the requests is answered.
    async fn reach(&self, numerator: u64, denominator: u64) {
        while self.done.load(Ordering::Relaxed) * denominator < self.total * numerator {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
