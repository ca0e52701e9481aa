// A client of recsys: the calls of protos/recsys/v1 with deadlines, TLS, tokens and retries, over all servers of a name.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import type { AppendEventsRequest } from "./generated/recsys/v1/AppendEventsRequest.js";
import type { AppendEventsResponse__Output } from "./generated/recsys/v1/AppendEventsResponse.js";
import type { AudienceRequest } from "./generated/recsys/v1/AudienceRequest.js";
import type { AudienceResponse__Output } from "./generated/recsys/v1/AudienceResponse.js";
import type { ExplainRequest } from "./generated/recsys/v1/ExplainRequest.js";
import type { ExplainResponse__Output } from "./generated/recsys/v1/ExplainResponse.js";
import type { GetFeaturesRequest } from "./generated/recsys/v1/GetFeaturesRequest.js";
import type { GetFeaturesResponse__Output } from "./generated/recsys/v1/GetFeaturesResponse.js";
import type { GetHistoriesRequest } from "./generated/recsys/v1/GetHistoriesRequest.js";
import type { GetHistoriesResponse__Output } from "./generated/recsys/v1/GetHistoriesResponse.js";
import type { GetHistoryRequest } from "./generated/recsys/v1/GetHistoryRequest.js";
import type { GetHistoryResponse__Output } from "./generated/recsys/v1/GetHistoryResponse.js";
import type { PutEntitiesRequest } from "./generated/recsys/v1/PutEntitiesRequest.js";
import type { PutEntitiesResponse__Output } from "./generated/recsys/v1/PutEntitiesResponse.js";
import type { RankBatchRequest } from "./generated/recsys/v1/RankBatchRequest.js";
import type { RankBatchResponse__Output } from "./generated/recsys/v1/RankBatchResponse.js";
import type { RankRequest } from "./generated/recsys/v1/RankRequest.js";
import type { RankResponse__Output } from "./generated/recsys/v1/RankResponse.js";
import type { RecommendRequest } from "./generated/recsys/v1/RecommendRequest.js";
import type { RecommendResponse__Output } from "./generated/recsys/v1/RecommendResponse.js";
import type { RetrieveRequest } from "./generated/recsys/v1/RetrieveRequest.js";
import type { RetrieveResponse__Output } from "./generated/recsys/v1/RetrieveResponse.js";
import type { SimilarRequest } from "./generated/recsys/v1/SimilarRequest.js";
import type { SimilarResponse__Output } from "./generated/recsys/v1/SimilarResponse.js";
import type { TrendingRequest } from "./generated/recsys/v1/TrendingRequest.js";
import type { TrendingResponse__Output } from "./generated/recsys/v1/TrendingResponse.js";
import type { WithdrawItemsRequest } from "./generated/recsys/v1/WithdrawItemsRequest.js";
import type { WithdrawItemsResponse__Output } from "./generated/recsys/v1/WithdrawItemsResponse.js";
import type { ProtoGrpcType as Ranker } from "./generated/ranker.js";
import type { ProtoGrpcType as FeatureStore } from "./generated/feature_store.js";
import type { ProtoGrpcType as Related } from "./generated/related.js";

const EXAMPLE = fileURLToPath(new URL("..", import.meta.url));
const definition = loadSync(["recsys/v1/ranker.proto", "recsys/v1/related.proto", "recsys/v1/feature_store.proto"], {
  // As in package.json's "generate". A 64-bit number is a string in answers: JavaScript's hold 53 bits.
  longs: String,
  defaults: true,
  oneofs: true,
  includeDirs: [`${EXAMPLE}../../protos`, `${EXAMPLE}node_modules/protobufjs`],
});
const services = grpc.loadPackageDefinition(definition) as unknown as Ranker & Related & FeatureStore;

const MESSAGE_BYTES = 16 * 1024 * 1024; // as much as the server takes and sends
const MOST_RETRIES = 2; // of a call that was refused for load
const RETRY_TRAILER = "grpc-retry-pushback-ms";

const SERVICE_CONFIG = {
  // All addresses of a name in turn. By default all calls go to the first one that answers.
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [{ service: "recsys.v1.Ranker" }, { service: "recsys.v1.Related" }, { service: "recsys.v1.FeatureStore" }],
      retryPolicy: {
        maxAttempts: 3,
        initialBackoff: "0.02s",
        maxBackoff: "0.2s",
        backoffMultiplier: 2,
        // CANCELLED by the server is a call that has just come when it begins to drain.
        retryableStatusCodes: ["UNAVAILABLE", "CANCELLED"],
      },
    },
    // A repetition would forget how far the first attempt came, which the error tells.
    { name: [{ service: "recsys.v1.FeatureStore", method: "AppendEventStream" }] },
  ],
};

const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
  "grpc.service_config_disable_resolution": 1, // nobody keeps one in DNS
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000, // the default is two minutes: too long to notice that a server is back
  "grpc.keepalive_time_ms": 30_000, // a server whose machine is gone says nothing
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.dns_min_time_between_resolutions_ms": 1_000, // a connection that ends has its name looked up again
  "grpc.max_receive_message_length": MESSAGE_BYTES,
  "grpc.max_send_message_length": MESSAGE_BYTES,
};

/** Files in PEM; a new client reads new ones. */
export interface Tls {
  /** CAs that the server's certificate may come from; default: the public ones. */
  ca?: string;
  /** The client's own certificate and private key, for a server that asks for them (mTLS). */
  certificate?: string;
  key?: string;
  /** Name in the server's certificate, where the address has another. */
  serverName?: string;
}

export interface Options {
  /** Time of a call that is given none, with all its retries; default: 1,000. */
  timeoutMs?: number;
  /** Default: in the clear. */
  tls?: Tls;
  /** File with the token that says who calls; read at each call, so that a new one is taken. */
  tokenFile?: string;
  /** Send the token without TLS to another machine, where everybody on the way can read it. */
  tokenInClear?: boolean;
}

export interface CallOptions {
  /** Time of this call; default: the client's. */
  timeoutMs?: number;
}

/** What starts a call: `(...rest) => client.ranker.rank(request, ...rest)`. */
type Start<Response> = (
  metadata: grpc.Metadata,
  options: grpc.CallOptions,
  callback: grpc.requestCallback<Response>,
) => grpc.ClientUnaryCall;

export class Client {
  /** The generated clients, for what is not below: streams, other metadata. */
  readonly ranker;
  readonly related;
  readonly store;
  private readonly timeoutMs: number;
  private readonly tokenFile: string | undefined;

  /** Address: HOST:PORT. Of a name with several servers (Kubernetes: a headless Service) all are called in turn. */
  constructor(address: string, { timeoutMs = 1_000, tls, tokenFile, tokenInClear = false }: Options = {}) {
    if (!(timeoutMs > 0)) throw new RangeError(`timeoutMs is ${timeoutMs}; allowed: more than 0`);
    if (tokenFile && !tls && !tokenInClear && !isLocal(address))
      throw new Error(`a token would be sent to ${address} in clear; allowed: with tls, to this machine, or tokenInClear`);
    const credentials = tls ? tlsCredentials(tls) : grpc.credentials.createInsecure();
    const options: grpc.ChannelOptions = {
      ...CHANNEL_OPTIONS,
      ...(tls?.serverName && { "grpc.ssl_target_name_override": tls.serverName }),
      ...(isLocal(address) && { "grpc.enable_http_proxy": 0 }), // where no proxy could reach
    };
    this.ranker = new services.recsys.v1.Ranker(address, credentials, options);
    const sameConnections = { channelOverride: this.ranker.getChannel() };
    this.related = new services.recsys.v1.Related(address, credentials, sameConnections);
    this.store = new services.recsys.v1.FeatureStore(address, credentials, sameConnections);
    this.timeoutMs = timeoutMs;
    this.tokenFile = tokenFile;
  }

  /** End all connections. */
  close(): void {
    this.ranker.close();
  }

  rank(request: RankRequest, options?: CallOptions): Promise<RankResponse__Output> {
    return this.call((...rest) => this.ranker.rank(request, ...rest), options);
  }

  rankBatch(request: RankBatchRequest, options?: CallOptions): Promise<RankBatchResponse__Output> {
    return this.call((...rest) => this.ranker.rankBatch(request, ...rest), options);
  }

  retrieve(request: RetrieveRequest, options?: CallOptions): Promise<RetrieveResponse__Output> {
    return this.call((...rest) => this.ranker.retrieve(request, ...rest), options);
  }

  recommend(request: RecommendRequest, options?: CallOptions): Promise<RecommendResponse__Output> {
    return this.call((...rest) => this.ranker.recommend(request, ...rest), options);
  }

  explain(request: ExplainRequest, options?: CallOptions): Promise<ExplainResponse__Output> {
    return this.call((...rest) => this.ranker.explain(request, ...rest), options);
  }

  similar(request: SimilarRequest, options?: CallOptions): Promise<SimilarResponse__Output> {
    return this.call((...rest) => this.related.similar(request, ...rest), options);
  }

  audience(request: AudienceRequest, options?: CallOptions): Promise<AudienceResponse__Output> {
    return this.call((...rest) => this.related.audience(request, ...rest), options);
  }

  trending(request: TrendingRequest, options?: CallOptions): Promise<TrendingResponse__Output> {
    return this.call((...rest) => this.related.trending(request, ...rest), options);
  }

  appendEvents(request: AppendEventsRequest, options?: CallOptions): Promise<AppendEventsResponse__Output> {
    return this.call((...rest) => this.store.appendEvents(request, ...rest), options);
  }

  withdrawItems(request: WithdrawItemsRequest, options?: CallOptions): Promise<WithdrawItemsResponse__Output> {
    return this.call((...rest) => this.store.withdrawItems(request, ...rest), options);
  }

  putEntities(request: PutEntitiesRequest, options?: CallOptions): Promise<PutEntitiesResponse__Output> {
    return this.call((...rest) => this.store.putEntities(request, ...rest), options);
  }

  getFeatures(request: GetFeaturesRequest, options?: CallOptions): Promise<GetFeaturesResponse__Output> {
    return this.call((...rest) => this.store.getFeatures(request, ...rest), options);
  }

  getHistory(request: GetHistoryRequest, options?: CallOptions): Promise<GetHistoryResponse__Output> {
    return this.call((...rest) => this.store.getHistory(request, ...rest), options);
  }

  getHistories(request: GetHistoriesRequest, options?: CallOptions): Promise<GetHistoriesResponse__Output> {
    return this.call((...rest) => this.store.getHistories(request, ...rest), options);
  }

  /**
   * Make a call. A server that is full says when to come again, and the call is made again if there is time.
   *
   * @throws grpc.ServiceError: its `code` is one of `grpc.status`; for INVALID_ARGUMENT, `details` name the field,
   *   what arrived and what is allowed.
   */
  async call<Response>(
    start: Start<Response>,
    { timeoutMs = this.timeoutMs }: CallOptions = {},
  ): Promise<Response> {
    const deadline = Date.now() + timeoutMs;
    for (let retries = 0; ; retries++) {
      try {
        return await this.once(start, deadline);
      } catch (error) {
        const waitMs = retryAfterMs(error);
        if (waitMs === undefined || retries === MOST_RETRIES || Date.now() + waitMs >= deadline) throw error;
        await sleep(waitMs);
      }
    }
  }

  private once<Response>(start: Start<Response>, deadline: number): Promise<Response> {
    const metadata = new grpc.Metadata();
    if (this.tokenFile) metadata.set("authorization", `Bearer ${readFileSync(this.tokenFile, "ascii").trim()}`);
    return new Promise((resolve, reject) => {
      start(metadata, { deadline }, (error, response) => (error ? reject(error) : resolve(response as Response)));
    });
  }
}

function tlsCredentials({ ca, certificate, key }: Tls): grpc.ChannelCredentials {
  const read = (file?: string) => (file === undefined ? null : readFileSync(file));
  return grpc.credentials.createSsl(read(ca), read(key), read(certificate));
}

/** Milliseconds after which a refused call may come again, as the server says. */
function retryAfterMs(error: unknown): number | undefined {
  const { code, metadata } = error as grpc.ServiceError;
  if (code !== grpc.status.RESOURCE_EXHAUSTED) return undefined;
  const said = String(metadata?.get(RETRY_TRAILER)[0] ?? "");
  return /^\d+$/.test(said) ? Number(said) : undefined;
}

function isLocal(address: string): boolean {
  return /^(unix:|(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$)/i.test(address);
}
