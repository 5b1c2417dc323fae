//! What happens around every call: it is counted, and ends at the deadline that its client set (`grpc-timeout`).
//!
//! The end is told with `DEADLINE_EXCEEDED`. The server of tonic would answer `CANCELLED` at the same moment, and which of
//! the two a client sees would be chance.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::codegen::{Service, http};
use tonic::{Code, Status, body::Body};

use crate::telemetry::Calls;

/// Puts both around a service.
#[derive(Debug, Clone)]
pub(crate) struct CallLayer(pub(crate) Calls);

impl<S> tower::Layer<S> for CallLayer {
    type Service = Call<S>;

    fn layer(&self, inner: S) -> Call<S> {
        Call { inner, calls: self.0.clone() }
    }
}

/// A service whose calls are counted and end at their deadline.
#[derive(Debug, Clone)]
pub(crate) struct Call<S> {
    inner: S,
    calls: Calls,
}

impl<S, R> Service<http::Request<R>> for Call<S>
where
    S: Service<http::Request<R>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<R>) -> Self::Future {
        let (calls, path, began) = (self.calls.clone(), request.uri().path().to_owned(), Instant::now());
        let left = request.headers().get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = within(left, answer).await?;
            // A refusal is told in the head; what is told after a body is no refusal of this call.
            let code = Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code());
            calls.called(&path, began.elapsed(), code);
            Ok(answer)
        })
    }
}

async fn within<E>(
    left: Option<Duration>,
    answer: impl Future<Output = Result<http::Response<Body>, E>>,
) -> Result<http::Response<Body>, E> {
    // A little earlier than the server around this, which has the same deadline.
    let Some(left) = left.map(|left| left - left / 8) else { return answer.await };
    tokio::time::timeout(left, answer)
        .await
        .unwrap_or_else(|_| Ok(Status::deadline_exceeded("the client's deadline has passed").into_http()))
}

/// Up to eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_digits_and_a_unit() {
        assert_eq!(parse("1m"), Some(Duration::from_millis(1)));
        assert_eq!(parse("30S"), Some(Duration::from_secs(30)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "5", "-1S", "+1S", "123456789S", "1x", "1é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_call_that_outlives_its_deadline_is_answered_so() {
        let never = tower::service_fn(|_: http::Request<()>| {
            std::future::pending::<Result<http::Response<Body>, std::convert::Infallible>>()
        });
        let mut service = tower::Layer::layer(&CallLayer(Calls::default()), never);
        let request = http::Request::builder().header("grpc-timeout", "5m").body(()).unwrap();
        let answer = service.call(request).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "4");
    }
}
