//! Shows the spans of a cached call as OpenTelemetry receives them.
//!
//! The example makes the same call three times, each in a span named `request`, and prints the
//! spans. In production, use an OTLP exporter instead of the in-memory exporter.
//!
//! Run it with `CACHE_URL=memcache://127.0.0.1:11211 cargo run -p cached-examples --bin traces`.

use std::error::Error;

use cached_core::{Cache, coordinator_cached};
use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::{Instrument, info_span};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[coordinator_cached(name = "course", version = edition)]
async fn fetch_course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    let upstream = async { format!("course {id}, edition {edition}") };
    Ok(upstream.instrument(info_span!("GET", otel.kind = "client")).await)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("traces"));
    tracing_subscriber::registry().with(layer).init();

    let cache = Cache::from_env().await?;
    // The two caches stand in for two processes: they share memcached, but they share no memory.
    let other = Cache::from_env().await?;
    for (number, cache) in [(1, &cache), (2, &other), (3, &other)] {
        let request = cache.scope(fetch_course(7, 2));
        request.instrument(info_span!("request", number, otel.kind = "server")).await?;
        cache.flush().await;
    }

    provider.force_flush()?;
    let spans = exporter.get_finished_spans()?;
    print_children(&spans, SpanId::INVALID, 0);
    Ok(())
}

/// Prints the spans below a parent, each with its own children.
fn print_children(spans: &[SpanData], parent: SpanId, depth: usize) {
    let mut children: Vec<_> = spans.iter().filter(|s| s.parent_span_id == parent).collect();
    children.sort_by_key(|span| span.start_time);
    for span in children {
        let shown = |name: &str| {
            ["number", "cache.", "db.", "server.address", "error."]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        let attributes: Vec<_> = span
            .attributes
            .iter()
            .filter(|attribute| shown(attribute.key.as_str()))
            .map(|attribute| format!("{}={}", attribute.key, attribute.value))
            .collect();
        let kind = format!("{:?}", span.span_kind).to_lowercase();
        println!("{:1$}{2} ({kind}) {3}", "", 2 * depth, span.name, attributes.join(" "));
        print_children(spans, span.span_context.span_id(), depth + 1);
    }
}
