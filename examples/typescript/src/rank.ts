// Store a user and an event, then rank: node dist/rank.js [HOST:PORT]
// RECSYS_CA: file of the CA of a server that speaks TLS. RECSYS_TOKEN_FILE: file with a token.

import * as grpc from "@grpc/grpc-js";

import { Client } from "./client.js";

const address = process.argv[2] ?? "127.0.0.1:50051";
const { RECSYS_CA: ca, RECSYS_TOKEN_FILE: tokenFile } = process.env;
const client = new Client(address, { ...(ca && { tls: { ca } }), ...(tokenFile && { tokenFile }) });

try {
  const user = { integer: 1 };
  const candidates = [661, 914, 3408];
  // One event now; sending it again has no effect.
  const { added } = await client.appendEvents({
    user,
    events: { items: { integers: [1193] }, timestampsMs: [Date.now()] },
  });
  const ranking = await client.rank({ user, candidates: { integers: candidates }, topK: 2 });
  // What is not in stock has no score; how to ask for it: docs/guides/filters.md.
  //   filter: { all: [{ attribute: "in_stock", flag: true }, { attribute: "price", range: { max: 50 } }] }
  const scored = ranking.positions.map((position, n) => ({ item: candidates[position], score: ranking.scores[n] }));
  console.log(JSON.stringify({ added, scored, model: ranking.model, historyEvents: ranking.historyEvents }));
  if (ranking.degraded.length > 0) console.error("degraded:", JSON.stringify(ranking.degraded));
} catch (error) {
  const { code, details } = error as grpc.ServiceError;
  console.error(code === undefined ? String(error) : `${grpc.status[code]}: ${details}`);
  process.exitCode = 1;
} finally {
  client.close();
}
