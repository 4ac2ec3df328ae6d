//! Ranges that do not fit into one answer: pages that pin the revision of the first, and etcd 3.7's `RangeStream`.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::stream::{self, BoxStream, StreamExt};
use kvorum_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvorum_api::etcdserverpb::{RangeRequest, RangeStreamResponse};

use super::Kv;
use crate::error::{Error, ErrorKind, Result};
use crate::keys;
use crate::method;
use crate::response::{GetResponse, Header, KeyValue};

/// Keys in a page when `RangeStream` is not there.
const FALLBACK_PAGE_KEYS: i64 = 1_000;

/// The pages of a range, in the order of keys, all of the revision of the first: a [`Stream`] that ends after the last
/// page or the first error. `count` in each is what was left from its first key on.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
/// # fn main() { doc_test(async |client: kvorum_client::Client| {
/// for number in 0..25 {
///     client.put(format!("k{number:02}"), "").await?;
/// }
/// let mut pages = client.get("k").prefix().keys_only().pages(10);
/// let mut seen = 0;
/// while let Some(page) = pages.next().await {
///     seen += page?.kvs.len();
/// }
/// assert_eq!(seen, 25);
/// # Ok(()) }); }
/// ```
#[must_use = "a stream does nothing unless polled"]
pub struct Pages(BoxStream<'static, Result<GetResponse>>);

impl Pages {
    pub(super) fn new(kv: Kv, request: RangeRequest, keys_per_page: i64) -> Self {
        Self(pages(kv, request, keys_per_page).boxed())
    }

    /// The next page; None after the last.
    pub async fn next(&mut self) -> Option<Result<GetResponse>> {
        self.0.next().await
    }

    /// The keys one by one.
    pub fn into_keys(self) -> impl Stream<Item = Result<KeyValue>> + Send + Unpin {
        each(self.0)
    }
}

impl Stream for Pages {
    type Item = Result<GetResponse>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

/// A range in pieces as they come: a [`Stream`] of answers of which only the last has `header`, `count` and `more` from a
/// server with `RangeStream` (etcd 3.7); from others they are pages and every one has them.
///
/// Sorting and filters by revision are not part of `RangeStream`: such ranges are read in one piece from any server.
#[must_use = "a stream does nothing unless polled"]
pub struct Chunks(BoxStream<'static, Result<GetResponse>>);

impl Chunks {
    pub(super) fn new(kv: Kv, request: RangeRequest) -> Self {
        let begin = async move {
            let entered = kv.entered(request.clone());
            match kv.connection.download::<_, RangeStreamResponse>(method::RANGE_STREAM, &entered).await {
                Ok((stream, first)) => {
                    let state = (kv, stream, first.map(Ok));
                    stream::unfold(Some(state), next_chunk).boxed()
                }
                Err(error) if error.kind() == ErrorKind::Unimplemented => {
                    pages(kv, request, FALLBACK_PAGE_KEYS).boxed()
                }
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        Self(stream::once(begin).flatten().boxed())
    }

    /// The next piece; None after the last.
    pub async fn next(&mut self) -> Option<Result<GetResponse>> {
        self.0.next().await
    }

    /// The keys one by one.
    pub fn into_keys(self) -> impl Stream<Item = Result<KeyValue>> + Send + Unpin {
        each(self.0)
    }
}

impl Stream for Chunks {
    type Item = Result<GetResponse>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

type ChunkState = (Kv, crate::connection::Stream, Option<Result<RangeStreamResponse>>);

async fn next_chunk(state: Option<ChunkState>) -> Option<(Result<GetResponse>, Option<ChunkState>)> {
    let (kv, mut stream, first) = state?;
    let next = match first {
        Some(first) => first,
        // Each piece has the time of a call: a server that falls silent in the middle must not hold the reader for ever.
        None => match tokio::time::timeout(kv.connection.timeout(), stream.receive()).await {
            Ok(received) => received.transpose()?,
            Err(_) => Err(Error::deadline("no piece of the range came in time", crate::transport::Sent::Maybe)),
        },
    };
    match next {
        Ok(chunk) => {
            let mut response = chunk.range_response.unwrap_or_default();
            kv.leave_all(&mut response.kvs);
            Some((Ok(response), Some((kv, stream, None))))
        }
        Err(error) => Some((Err(error), None)),
    }
}

/// What is left to read.
struct PageState {
    kv: Kv,
    request: RangeRequest,
    keys_left: Option<i64>,
    keys_per_page: i64,
}

fn pages(kv: Kv, request: RangeRequest, keys_per_page: i64) -> impl Stream<Item = Result<GetResponse>> + Send {
    let keys_left = (request.limit > 0).then_some(request.limit);
    let request = kv.entered(request);
    // A single key has one page; what is sorted otherwise than by key cannot be cut by key.
    let sorted = request.sort_order != i32::from(SortOrder::None)
        && (request.sort_target != i32::from(SortTarget::Key) || request.sort_order == i32::from(SortOrder::Descend));
    let whole = request.range_end.is_empty() || request.count_only || sorted;
    let keys_per_page = if whole { 0 } else { keys_per_page.max(1) };
    stream::unfold(Some(PageState { kv, request, keys_left, keys_per_page }), next_page)
}

async fn next_page(state: Option<PageState>) -> Option<(Result<GetResponse>, Option<PageState>)> {
    let mut state = state?;
    if state.keys_per_page > 0 {
        state.request.limit = state.keys_left.map_or(state.keys_per_page, |left| left.min(state.keys_per_page));
    }
    let page = match state.kv.send_entered_get(&state.request).await {
        Ok(page) => page,
        Err(error) => return Some((Err(error), None)),
    };
    if state.request.revision == 0 {
        state.request.revision = page.revision();
    }
    if let Some(left) = &mut state.keys_left {
        *left -= i64::try_from(page.kvs.len()).unwrap_or(i64::MAX);
    }
    let is_last = !page.more || state.keys_per_page == 0 || state.keys_left.is_some_and(|left| left <= 0);
    let next = match page.kvs.last() {
        Some(last) if !is_last => {
            state.request.key = keys::successor(&state.kv.entered_key(&last.key));
            Some(state)
        }
        // `more` without a key would ask the same for ever.
        _ => None,
    };
    Some((Ok(page), next))
}

fn each(pages: BoxStream<'static, Result<GetResponse>>) -> impl Stream<Item = Result<KeyValue>> + Send + Unpin {
    pages.flat_map(|page| match page {
        Ok(page) => stream::iter(page.kvs).map(Ok).left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    })
}
