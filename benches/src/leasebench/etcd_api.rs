//! The few calls of etcd's gRPC interface that a lease needs (`rpc.proto` of etcd 3.4).

use std::str::FromStr;

use anyhow::{Context, Result};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// `CompareTarget.CREATE`.
const TARGET_CREATE: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct LeaseGrantRequest {
    #[prost(int64, tag = "1")]
    ttl: i64,
    #[prost(int64, tag = "2")]
    id: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LeaseGrantResponse {
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

/// Equal (0, the default) create revision.
#[derive(Clone, PartialEq, prost::Message)]
struct Compare {
    #[prost(int32, tag = "1")]
    result: i32,
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(int64, optional, tag = "5")]
    create_revision: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
    #[prost(int64, tag = "3")]
    lease: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestOp {
    #[prost(message, optional, tag = "2")]
    put: Option<PutRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnResponse {
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeleteRangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeleteRangeResponse {
    #[prost(int64, tag = "2")]
    deleted: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LeaseKeepAliveRequest {
    #[prost(int64, tag = "1")]
    id: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LeaseKeepAliveResponse {
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

/// A connection to one server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    grpc: Grpc<Channel>,
}

impl Client {
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let endpoint = Endpoint::from_str(&format!("http://{address}"))?.tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("connecting to etcd at {address}"))?;
        Ok(Self {
            grpc: Grpc::new(channel),
        })
    }

    /// Begins a session; its keys go when it ends. Gives its id and the time etcd granted.
    pub(crate) async fn grant(&mut self, ttl_s: i64) -> Result<(i64, i64)> {
        let request = LeaseGrantRequest { ttl: ttl_s, id: 0 };
        let granted: LeaseGrantResponse =
            self.call("/etcdserverpb.Lease/LeaseGrant", request).await?;
        Ok((granted.id, granted.ttl))
    }

    /// Creates a key that belongs to a session. False if there is one already.
    pub(crate) async fn create(&mut self, key: &str, session: i64) -> Result<bool> {
        let key = key.as_bytes().to_vec();
        let request = TxnRequest {
            compare: vec![Compare {
                result: 0,
                target: TARGET_CREATE,
                key: key.clone(),
                create_revision: Some(0),
            }],
            success: vec![RequestOp {
                put: Some(PutRequest {
                    key,
                    value: Vec::new(),
                    lease: session,
                }),
            }],
        };
        let done: TxnResponse = self.call("/etcdserverpb.KV/Txn", request).await?;
        Ok(done.succeeded)
    }

    /// Deletes a key. False if there was none.
    pub(crate) async fn delete(&mut self, key: &str) -> Result<bool> {
        let request = DeleteRangeRequest {
            key: key.as_bytes().to_vec(),
        };
        let done: DeleteRangeResponse = self.call("/etcdserverpb.KV/DeleteRange", request).await?;
        Ok(done.deleted == 1)
    }

    /// Keeps a session alive, as etcd's own client does it once: a stream of one question.
    pub(crate) async fn keep_alive(&mut self, session: i64) -> Result<()> {
        self.grpc.ready().await?;
        let codec: ProstCodec<LeaseKeepAliveRequest, LeaseKeepAliveResponse> =
            ProstCodec::default();
        let question = tokio_stream::once(LeaseKeepAliveRequest { id: session });
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        let reply = self
            .grpc
            .streaming(tonic::Request::new(question), path, codec)
            .await?;
        match reply.into_inner().message().await? {
            Some(kept) if kept.ttl > 0 => Ok(()),
            Some(_) | None => anyhow::bail!("etcd let session {session} go"),
        }
    }

    async fn call<Q, R>(&mut self, path: &'static str, request: Q) -> Result<R>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await?;
        let codec: ProstCodec<Q, R> = ProstCodec::default();
        let path = PathAndQuery::from_static(path);
        let reply = self
            .grpc
            .unary(tonic::Request::new(request), path, codec)
            .await?;
        Ok(reply.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    /// Bytes as protobuf's specification gives them for etcd's field numbers.
    #[test]
    fn comparison_with_revision_zero_is_said_explicitly() {
        let compare = Compare {
            result: 0,
            target: TARGET_CREATE,
            key: b"k".to_vec(),
            create_revision: Some(0),
        };

        assert_eq!(compare.encode_to_vec(), [0x10, 1, 0x1a, 1, b'k', 0x28, 0]);
    }
}
