// The same job with Microsoft's library for each step.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { ManagedIdentityCredential } from "@azure/identity";
import { SecretClient } from "@azure/keyvault-secrets";
import { Client } from "@microsoft/microsoft-graph-client";
import { TokenCredentialAuthenticationProvider } from "@microsoft/microsoft-graph-client/authProviders/azureTokenCredentials/index.js";

const env = process.env;
const identity = new ManagedIdentityCredential({ clientId: env.AZURE_CLIENT_ID });
const vault = new SecretClient(env.KEY_VAULT_URL, identity, { disableChallengeResourceVerification: true });
const key = Buffer.from((await vault.getSecret(env.WEBHOOK_SECRET_NAMES)).value.replace(/^whsec_/, ""), "base64");
const graph = Client.initWithMiddleware({
  authProvider: new TokenCredentialAuthenticationProvider(identity, { scopes: [`${env.GRAPH_ENDPOINT}/.default`] }),
  baseUrl: env.GRAPH_ENDPOINT,
  customHosts: new Set([new URL(env.GRAPH_ENDPOINT).hostname]),
  defaultVersion: "beta",
});

// Reports whether the signature of a request is right and at most five minutes old.
function authentic(headers, body) {
  const sent = Number(headers["webhook-timestamp"]);
  if (!(Math.abs(Date.now() / 1000 - sent) <= 300)) return false;
  const mac = createHmac("sha256", key).update(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`).update(body).digest("base64");
  const want = Buffer.from(`v1,${mac}`);
  const got = Buffer.from(headers["webhook-signature"] ?? "");
  return got.length === want.length && timingSafeEqual(got, want);
}

async function unassign(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts);
  if (!authentic(request.headers, body)) return 401;
  const { deviceId } = JSON.parse(body);
  const device = `/deviceManagement/windowsAutopilotDeviceIdentities/${encodeURIComponent(deviceId)}`;
  await graph.api(device).get();
  await graph.api(`${device}/unassignResourceAccountFromDevice`).post();
  return 204;
}

const server = createServer((request, response) => {
  if (request.method !== "POST" || request.url !== "/api/unassign") {
    response.writeHead(404).end();
    return;
  }
  unassign(request).then(
    (status) => response.writeHead(status).end(),
    (error) => {
      console.error(error);
      response.writeHead(502).end();
    },
  );
});
server.keepAliveTimeout = 120_000;
server.listen(Number(env.PORT), "127.0.0.1");
