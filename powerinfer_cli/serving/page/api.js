// The server: one place that knows its paths, its key and its errors. Paths are relative, so a proxy's prefix is kept.

import { settings } from "./settings.js";

/** What went wrong. kind: "key", "loading", "length", "busy", "gone", "cut" or "other". progress: of the loading. */
export class Problem extends Error {
  constructor(kind, text) {
    super(text);
    this.kind = kind;
  }
}

const GONE = "The server does not answer. It may have stopped, or the connection is down.";
const CUT = "The connection broke off before the answer was complete.";

/** An error body of the server's, in plain words. */
export function problemOf(status, error) {
  const said = typeof error?.message === "string" ? error.message : "";
  if (error?.type === "exceed_context_size_error") {
    const sizes = `${error.n_prompt_tokens} tokens, and the server has room for ${error.n_ctx}`;
    return new Problem("length", `This conversation is too long: ${sizes}. Start a new chat, or shorten your message.`);
  }
  if (status === 401) return new Problem("key", "The server wants an API key, and does not know the one it got.");
  if (status === 503 && /loading/i.test(said)) {
    const problem = new Problem("loading", "The server is still loading its model. Try again in a moment.");
    return Object.assign(problem, { progress: error.progress });
  }
  if (status === 503) return new Problem("busy", `The server has too much to do just now. ${said}`.trim());
  return new Problem("other", `The server answered with an error (${status}). ${said}`.trim());
}

function headers(more = {}) {
  return settings.key ? { ...more, Authorization: `Bearer ${settings.key}` } : more;
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("gone", GONE);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw problemOf(response.status, body?.error);
}

export async function getJSON(path) {
  const response = await request(path, { headers: headers(), cache: "no-store" });
  return response.json();
}

/** As `getJSON`, of the model that was chosen where there are several; nothing is loaded for that. */
export function modelJSON(path) {
  return getJSON(settings.model ? `${path}?model=${encodeURIComponent(settings.model)}&autoload=false` : path);
}

/** The data of each server-sent event, until [DONE]. A stream that ends without is cut. */
async function* events(body) {
  const reader = body.getReader(); // a TextDecoderStream between would lose what it holds when the connection breaks
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Problem("cut", CUT);
    const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

/** The chunks of one streamed answer. */
export async function* streamChat(messages, signal) {
  const body = {
    messages,
    stream: true,
    stream_options: { include_usage: true },
    timings_per_token: true,
    return_progress: true,
  };
  if (settings.model) body.model = settings.model;
  for (const name of ["temperature", "top_p", "max_tokens"]) if (settings[name] !== null) body[name] = settings[name];
  const options = { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal };
  const response = await request("v1/chat/completions", options);
  try {
    for await (const chunk of events(response.body)) {
      if (chunk.error) throw problemOf(chunk.error.code ?? 500, chunk.error);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw new Problem("cut", CUT);
  }
}
