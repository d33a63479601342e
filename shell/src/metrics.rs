//! Numbers about a process, for `xfs-admin` and in the text format of OpenMetrics (Prometheus) over
//! HTTP.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::times::{BOUNDS, Histogram};

/// Whoever asks for numbers has a few connections at most. 8: two collectors and some people.
const CONNECTIONS_MAX: usize = 8;
/// How long one connection may last. 30 s: collectors open a new one each time, or soon again.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a number changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Up and down.
    Gauge,
    /// Counts of durations, from 0 at the start of the process.
    Times(Histogram),
}

/// A number with a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metric {
    /// `oxfs_PART_WHAT_UNIT`. Metrics of one name stand together.
    pub name: &'static str,
    /// One sentence, without its dot.
    pub help: &'static str,
    /// How it changes.
    pub kind: Kind,
    /// What tells it apart from others of its name.
    pub label: Option<(&'static str, &'static str)>,
    /// The number; of durations, how many there were.
    pub value: u64,
}

/// A number as the messages to `xfs-admin` have it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Number {
    /// Name and labels.
    pub name: String,
    /// The number.
    pub value: u64,
    /// It goes up and down.
    pub gauge: bool,
    /// One sentence.
    pub help: &'static str,
}

impl Metric {
    /// Of a number that goes up and down.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self {
            name,
            help,
            kind: Kind::Gauge,
            label: None,
            value,
        }
    }

    /// Of a number that only grows.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self {
            kind: Kind::Counter,
            ..Self::gauge(name, help, value)
        }
    }

    /// Of durations.
    #[must_use]
    pub fn times(name: &'static str, help: &'static str, times: Histogram) -> Self {
        Self {
            kind: Kind::Times(times),
            ..Self::gauge(name, help, times.count())
        }
    }

    /// It as numbers: durations are one for each bucket that holds any, not added up, by its bound.
    #[must_use]
    pub fn numbers(&self) -> Vec<Number> {
        let number = |name, value| Number {
            name,
            value,
            gauge: self.kind == Kind::Gauge,
            help: self.help,
        };
        let Kind::Times(times) = self.kind else {
            return vec![number(self.full_name(), self.value)];
        };
        let buckets = times.buckets.iter().enumerate();
        buckets
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| {
                let bound = Histogram::bound_us(bucket).unwrap_or(u64::MAX);
                number(bucket_name(&self.full_name(), bound), *count)
            })
            .collect()
    }

    /// The same, told apart from others of its name.
    #[must_use]
    pub const fn with(self, label: &'static str, value: &'static str) -> Self {
        Self {
            label: Some((label, value)),
            ..self
        }
    }

    /// Name and label, as in `oxfs_lease_refused{reason="held"}`.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.label {
            Some((key, value)) => format!("{}{{{key}=\"{value}\"}}", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// Name of the number of those that took at most `bound_us`.
fn bucket_name(name: &str, bound_us: u64) -> String {
    format!("{name} <= {bound_us} us")
}

/// The durations called `name` among the [`Metric::numbers`] of a process.
pub fn times_among<'a>(name: &str, numbers: impl Iterator<Item = (&'a str, u64)>) -> Histogram {
    let mut times = Histogram::default();
    for (full, value) in numbers {
        let bound = full
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(" <= ")?.strip_suffix(" us")?.parse().ok());
        let bucket = bound.and_then(|bound: u64| {
            (0..BOUNDS)
                .find(|bucket| Histogram::bound_us(*bucket) == Some(bound))
                .or((bound == u64::MAX).then_some(BOUNDS))
        });
        if let Some(count) = bucket.and_then(|bucket| times.buckets.get_mut(bucket)) {
            *count = value;
        }
    }
    times
}

/// A queue with a limit: how much is in it, how much may be, and how often more was refused.
#[must_use]
pub fn queue(name: &'static str, depth: u64, max: u64, refused_count: u64) -> [Metric; 3] {
    let [limit, over] = refused(name, max, refused_count);
    let depth = Metric::gauge("oxfs_queue_depth", "What is in a queue", depth).with("queue", name);
    [depth, limit, over]
}

/// A limit of many queues of one kind: how much each may hold, and how often more was refused.
#[must_use]
pub fn refused(name: &'static str, max: u64, refused_count: u64) -> [Metric; 2] {
    let limit = Metric::gauge("oxfs_queue_max", "What a queue may hold", max);
    let help = "How often a queue was full and something was refused";
    let over = Metric::counter("oxfs_queue_over_limit", help, refused_count);
    [limit.with("queue", name), over.with("queue", name)]
}

/// Metrics of one name beside each other, names in the order of their first.
fn by_name(mut metrics: Vec<Metric>) -> Vec<Metric> {
    let mut order: HashMap<&str, usize> = HashMap::new();
    for metric in &metrics {
        let next = order.len();
        order.entry(metric.name).or_insert(next);
    }
    metrics.sort_by_key(|metric| order.get(metric.name).copied());
    metrics
}

/// Gives the numbers of the moment.
pub type Source = Arc<dyn Fn() -> Vec<Metric> + Send + Sync>;

struct Numbers(Source);

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbers").finish_non_exhaustive()
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = by_name((self.0)());
        for family in metrics.chunk_by(|one, other| one.name == other.name) {
            let Some(first) = family.first() else {
                continue;
            };
            let kind = match first.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Times(_) => MetricType::Histogram,
            };
            let mut lines = encoder.encode_descriptor(first.name, first.help, None, kind)?;
            for metric in family {
                match metric.label {
                    Some(label) => encode(&mut lines.encode_family(&[label])?, metric)?,
                    None => encode(&mut lines, metric)?,
                }
            }
        }
        Ok(())
    }
}

fn encode(line: &mut MetricEncoder<'_>, metric: &Metric) -> fmt::Result {
    match metric.kind {
        Kind::Counter => line.encode_counter::<[(&str, &str); 0], u64, u64>(&metric.value, None),
        Kind::Gauge => line.encode_gauge(&metric.value),
        Kind::Times(times) => {
            let seconds = |us: u64| us as f64 / 1e6;
            let buckets: Vec<(f64, u64)> = times
                .buckets
                .iter()
                .enumerate()
                .map(|(bucket, count)| {
                    let bound = Histogram::bound_us(bucket);
                    (bound.map_or(f64::INFINITY, seconds), *count)
                })
                .collect();
            let sum = seconds(times.sum_us);
            line.encode_histogram::<[(&str, &str); 0]>(sum, metric.value, &buckets, None)
        }
    }
}

/// The numbers as text.
fn exposition(source: &Source) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Numbers(Arc::clone(source))));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Answers `GET /metrics` for as long as it is polled.
pub async fn serve(listener: TcpListener, source: Source) -> Infallible {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Never closed, so there is always a permit to wait for.
        let permit = Arc::clone(&free).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = Arc::clone(&source);
                tokio::spawn(async move {
                    let answering = answer_all(stream, source);
                    // One that lasts longer is ended, and opened again by whoever wants more.
                    let _ = tokio::time::timeout(CONNECTION_TIME, answering).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_all(stream: TcpStream, source: Source) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &source);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let served = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection for metrics");
    }
}

fn answer(method: &Method, path: &str, source: &Source) -> Response<Full<Bytes>> {
    let (status, body) = match (method, path) {
        (&Method::GET, "/metrics") => match exposition(source) {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        _ => (
            StatusCode::NOT_FOUND,
            format!("there is nothing at {path}; ask for /metrics\n"),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn source() -> Source {
        let refused = |reason, value| {
            Metric::counter("oxfs_lease_refused", "Votes refused", value).with("reason", reason)
        };
        let held = Metric::gauge("oxfs_lease_held", "Leases held", 7);
        Arc::new(move || vec![refused("held", 2), refused("epoch", 0), held])
    }

    #[test]
    fn metrics_of_one_name_stand_under_one_heading() {
        assert_eq!(
            exposition(&source()).unwrap(),
            "# HELP oxfs_lease_refused Votes refused\n\
             # TYPE oxfs_lease_refused counter\n\
             oxfs_lease_refused_total{reason=\"held\"} 2\n\
             oxfs_lease_refused_total{reason=\"epoch\"} 0\n\
             # HELP oxfs_lease_held Leases held\n\
             # TYPE oxfs_lease_held gauge\n\
             oxfs_lease_held 7\n\
             # EOF\n"
        );
        assert_eq!(
            source()()[0].full_name(),
            "oxfs_lease_refused{reason=\"held\"}"
        );
    }

    #[test]
    fn times_are_a_histogram_and_find_their_way_through_numbers() {
        let times = crate::times::Times::default();
        times.note(Duration::from_micros(100));
        times.note(Duration::from_micros(110));
        times.note(Duration::from_secs(100));
        let read = times.read();
        let metric = Metric::times("oxfs_served_seconds", "Time", read).with("service", "osd");
        let source: Source = Arc::new(move || vec![metric]);

        let text = exposition(&source).unwrap();
        for line in [
            "# TYPE oxfs_served_seconds histogram",
            "oxfs_served_seconds_count{service=\"osd\"} 3",
            "oxfs_served_seconds_bucket{le=\"0.000128\",service=\"osd\"} 2",
            "oxfs_served_seconds_bucket{le=\"+Inf\",service=\"osd\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }

        let numbers = metric.numbers();
        assert_eq!(numbers.len(), 2, "only buckets with something in them");
        let pairs = numbers
            .iter()
            .map(|number| (number.name.as_str(), number.value));
        let found = times_among(&metric.full_name(), pairs);
        assert_eq!(found.buckets, read.buckets);
    }

    #[test]
    fn metrics_of_one_name_from_different_places_stand_together() {
        let [depth, max, over] = queue("a", 1, 2, 3);
        let [other_max, other_over] = refused("b", 5, 6);

        let sorted = by_name(vec![depth, max, over, other_max, other_over]);

        let names: Vec<String> = sorted.iter().map(Metric::full_name).collect();
        assert_eq!(
            names,
            [
                "oxfs_queue_depth{queue=\"a\"}",
                "oxfs_queue_max{queue=\"a\"}",
                "oxfs_queue_max{queue=\"b\"}",
                "oxfs_queue_over_limit{queue=\"a\"}",
                "oxfs_queue_over_limit{queue=\"b\"}",
            ]
        );
    }

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn numbers_are_served_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, source()));

        let answer = get(address, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        assert!(answer.contains("oxfs_lease_held 7"), "{answer}");
        let other = get(address, "/etc/passwd").await;
        assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
        serving.abort();
    }
}
