//! The carrier's API over HTTP, with every reading method cached.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use cached_core::coordinator_cached;
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use uuid::Uuid;

use crate::api::CarrierApi;
use crate::model::{CarrierLimits, Depot, Page, Parcel, Rate, Recipient, Token, TrackingEvent};

/// An answer of the carrier that is not a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CarrierError {
    /// Nothing is at this path.
    NotFound(String),
    /// The carrier answered this path with this status.
    Status(String, u16),
}

impl fmt::Display for CarrierError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CarrierError::NotFound(path) => write!(out, "the carrier does not know {path}"),
            CarrierError::Status(path, status) => {
                write!(out, "the carrier answered {path} with status {status}")
            }
        }
    }
}

impl std::error::Error for CarrierError {}

/// Copies the error of a failed fetch for the other callers that waited for the fetch.
///
/// An `anyhow::Error` is not `Clone`. Callers look for a [`CarrierError`], so its copy has the same
/// type. The copy of any other error has only the text.
fn copy_error(error: &anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<CarrierError>() {
        Some(answer) => answer.clone().into(),
        None => anyhow::anyhow!("{error:#}"),
    }
}

/// A carrier that is reached over HTTP.
///
/// Two clients can have different base URLs, for example if one is for a test system. So every key
/// contains `base_url`. A refresh in the background owns a clone of the client, so a clone must be
/// cheap.
#[derive(Debug, Clone)]
pub struct HttpCarrier {
    base_url: Arc<str>,
    client_id: Arc<str>,
    http: reqwest::Client,
}

impl HttpCarrier {
    /// Returns a client of the API at `base_url`, such as `http://carrier.example/v2`.
    ///
    /// # Errors
    /// Returns an error if `base_url` is not an HTTP URL.
    pub fn new(base_url: &str, client_id: &str) -> Result<HttpCarrier> {
        let url = Url::parse(base_url).with_context(|| format!("`{base_url}` is not a URL"))?;
        if url.scheme() != "http" {
            bail!("`{base_url}` is not an HTTP URL; write for example `http://carrier.example/v2`");
        }
        let http =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        Ok(HttpCarrier { base_url: base_url.into(), client_id: client_id.into(), http })
    }

    // ------------------------------------------------- cached methods whose entries are changed

    /// Returns the token for the API. The carrier says how long a token can be used. A token
    /// is secret, so it is not stored in memcached (`remote = false`).
    #[coordinator_cached(
        name = "carrier_token",
        identifier = (self.base_url, self.client_id),
        overwrite(reason = "the carrier issues a new token under the same client id"),
        ttl_with = |token| token.usable_time(),
        remote = false,
        share_error = copy_error,
        entry = token_entry
    )]
    async fn token(&self) -> Result<Token> {
        let request = self.http.post(self.url(&["token"])?);
        let answer = request.json(&json!({ "client_id": &*self.client_id })).send().await?;
        Ok(success_or_error(answer)?.json().await?)
    }

    /// Returns the tracking of a parcel. Every page of a parcel needs it. While the carrier is
    /// down, `error_ttl` lets at most one call in two seconds ask the carrier.
    #[coordinator_cached(
        name = "carrier_tracking",
        identifier = (self.base_url, number),
        overwrite(reason = "events arrive at any time, and the API has no version of the list"),
        ttl = "1m",
        error_ttl = "2s",
        share_error = copy_error,
        entry = tracking_entry
    )]
    async fn fetch_tracking(&self, number: &str) -> Result<Vec<TrackingEvent>> {
        self.get(&["parcels", number, "events"], &()).await
    }

    /// Returns a recipient. An unknown id is remembered for `none_ttl`, because the pages of old
    /// parcels ask for recipients who are gone.
    #[coordinator_cached(
        name = "carrier_recipient",
        identifier = (self.base_url, id),
        overwrite(reason = "recipients change their address and expect to see the change"),
        none_ttl = "30s",
        share_error = copy_error,
        entry = recipient_entry
    )]
    async fn fetch_recipient(&self, id: Uuid) -> Result<Option<Recipient>> {
        match self.get(&["recipients", &id.to_string()], &()).await {
            Ok(recipient) => Ok(Some(recipient)),
            Err(error) if matches!(error.downcast_ref(), Some(CarrierError::NotFound(_))) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    // ------------------------------------------------------------------------------ HTTP

    fn url(&self, path: &[&str]) -> Result<Url> {
        let mut url = Url::parse(&self.base_url)?;
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => bail!("`{}` cannot have a path", self.base_url),
        };
        Ok(url)
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &(impl Serialize + Sync),
    ) -> Result<T> {
        let request = self.http.get(self.url(path)?).query(query);
        self.send(request).await?.json().await.with_context(|| format!("GET {}", path.join("/")))
    }

    async fn change(
        &self,
        method: Method,
        path: &[&str],
        body: &(impl Serialize + Sync),
    ) -> Result<Response> {
        self.send(self.http.request(method, self.url(path)?).json(body)).await
    }

    /// Sends a request with a token. If the carrier has revoked the token, sends the request once
    /// more with a new token.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response> {
        let again = request.try_clone();
        let token = self.token().await?;
        let answer = request.bearer_auth(&token.access_token).send().await?;
        match again {
            Some(again) if answer.status() == StatusCode::UNAUTHORIZED => {
                // The carrier refuses every call with the revoked token. One of the other calls
                // might have replaced the token already.
                let current = self.token_entry().get().await.into_option();
                if current.is_some_and(|current| current.access_token == token.access_token) {
                    self.token_entry().invalidate().await?;
                }
                success_or_error(again.bearer_auth(self.token().await?.access_token).send().await?)
            }
            _ => success_or_error(answer),
        }
    }
}

/// Turns an answer that is not a success into an error.
fn success_or_error(answer: Response) -> Result<Response> {
    let status = answer.status();
    let path = answer.url().path().to_owned();
    match status {
        StatusCode::NOT_FOUND => Err(CarrierError::NotFound(path).into()),
        _ if status.is_success() => Ok(answer),
        _ => Err(CarrierError::Status(path, status.as_u16()).into()),
    }
}

#[async_trait]
impl CarrierApi for HttpCarrier {
    /// The caller knows the revision from a list or from the carrier's notification. The carrier
    /// might answer with an older revision, for example from a replica. Such an answer is not
    /// cached.
    #[coordinator_cached(
        name = "carrier_parcel",
        version = revision,
        identifier = (self.base_url, number),
        cache_if = |parcel| parcel.revision >= revision,
        share_error = copy_error
    )]
    async fn parcel(&self, number: &str, revision: u32) -> Result<Parcel> {
        self.get(&["parcels", number, "revisions", &revision.to_string()], &()).await
    }

    async fn tracking(&self, number: &str) -> Result<Vec<TrackingEvent>> {
        self.fetch_tracking(number).await
    }

    /// Two queries have the same key if they differ only in case or in the spaces around them.
    #[coordinator_cached(
        name = "carrier_search",
        identifier = (self.base_url, query.trim().to_lowercase(), page),
        overwrite(reason = "a search has no version, and new parcels appear in it"),
        ttl = "30s",
        share_error = copy_error
    )]
    async fn search(&self, query: &str, page: u32) -> Result<Page<Parcel>> {
        let page = page.to_string();
        self.get(&["parcels"], &[("query", query.trim()), ("page", &page)]).await
    }

    /// The carrier ignores a country that it does not know, and returns every depot. Such an answer
    /// is not cached.
    #[coordinator_cached(
        name = "carrier_depots",
        version = edition,
        identifier = (self.base_url, country),
        cache_if = |depots| depots.iter().all(|depot| depot.country == country),
        ttl = "1d",
        share_error = copy_error
    )]
    async fn depots(&self, country: &str, edition: u32) -> Result<Vec<Depot>> {
        let edition = edition.to_string();
        self.get(&["depots"], &[("country", country), ("edition", &edition)]).await
    }

    /// Rates are slow to compute, so they are refreshed before they expire. Old rates are better
    /// than none.
    #[coordinator_cached(
        name = "carrier_rates",
        identifier = (self.base_url, from, to, weight_grams),
        overwrite(reason = "the carrier changes its rates at any time, without a version"),
        ttl = "10m",
        refresh_ahead = "2m",
        refresh_with = self.clone(),
        stale_if_error = "1h",
        share_error = copy_error
    )]
    async fn rates(&self, from: &str, to: &str, weight_grams: u32) -> Result<Vec<Rate>> {
        let weight = weight_grams.to_string();
        self.get(&["rates"], &[("from", from), ("to", to), ("weight", &weight)]).await
    }

    async fn recipient(&self, id: Uuid) -> Result<Option<Recipient>> {
        self.fetch_recipient(id).await
    }

    #[coordinator_cached(
        name = "carrier_customs_form",
        identifier = (self.base_url, number),
        overwrite(reason = "the sender may correct the form until the parcel leaves"),
        ttl = "5m",
        share_error = copy_error
    )]
    async fn customs_form(&self, number: &str) -> Result<serde_json::Value> {
        self.get(&["parcels", number, "customs"], &()).await
    }

    /// The configuration is not `Serialize`, so it stays in this process.
    #[coordinator_cached(
        name = "carrier_config",
        identifier = self.base_url,
        overwrite(reason = "the carrier publishes new limits under the same address"),
        ttl = "1h",
        remote = false,
        share_error = copy_error
    )]
    async fn config(&self) -> Result<Arc<CarrierLimits>> {
        Ok(Arc::new(self.get(&["config"], &()).await?))
    }

    async fn redirect(&self, number: &str, depot: Uuid) -> Result<()> {
        let path = ["parcels", number, "redirect"];
        self.change(Method::POST, &path, &json!({ "depot": depot })).await?;
        // The parcel is redirected even if the invalidation fails, so the failure is only logged.
        if let Err(error) = self.tracking_entry(number).invalidate().await {
            log::warn!("the tracking of a parcel may be old for a minute: {error}");
        }
        Ok(())
    }

    async fn update_recipient(&self, recipient: &Recipient) -> Result<Recipient> {
        let path = ["recipients", &recipient.id.to_string()];
        let stored: Recipient = self.change(Method::PUT, &path, recipient).await?.json().await?;
        if let Err(error) = self.recipient_entry(stored.id).overwrite(Some(stored.clone())).await {
            log::warn!("the data of a recipient may be old for half an hour: {error}");
        }
        Ok(stored)
    }
}
