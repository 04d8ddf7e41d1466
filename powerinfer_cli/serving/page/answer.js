// One answer while it is written: chunks of the stream go into a message, and whoever looks at it is told.

import { Problem, streamChat } from "./api.js";
import { settings } from "./settings.js";

/** The messages as the API takes them; answers that failed before their first word are left out. */
function payload(messages) {
  const sent = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  for (const { role, content, tool_calls } of messages) {
    if (role === "user") sent.push({ role, content });
    else if (tool_calls.length) sent.push({ role, content, tool_calls });
    else if (content) sent.push({ role, content });
  }
  return sent;
}

function addToolCalls(message, deltas) {
  for (const { index, id, function: part } of deltas) {
    const call = (message.tool_calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    if (id) call.id = id;
    call.function.name += part?.name ?? "";
    call.function.arguments += part?.arguments ?? "";
  }
}

function addTimings(message, timings) {
  message.stats = {
    ...message.stats,
    tokens: timings.predicted_n,
    perSecond: timings.predicted_per_second,
    promptRead: timings.prompt_n,
    promptCached: timings.cache_n,
  };
}

function add(message, chunk) {
  const choice = chunk.choices?.[0];
  const delta = choice?.delta ?? {};
  message.content += delta.content ?? "";
  message.reasoning += delta.reasoning_content ?? "";
  if (delta.tool_calls) addToolCalls(message, delta.tool_calls);
  if (choice?.finish_reason) message.stats = { ...message.stats, finish: choice.finish_reason };
  if (chunk.timings) addTimings(message, chunk.timings);
  if (chunk.prompt_progress) message.progress = chunk.prompt_progress;
}

export class Answer {
  /** message: the assistant's, empty. onchange: called after each chunk, and once more at the end. */
  constructor(history, message, onchange) {
    this.message = message;
    this.onchange = onchange;
    this.abort = new AbortController();
    this.done = this.#write(payload(history));
  }

  stop() {
    this.abort.abort();
  }

  async #write(messages) {
    const { message } = this;
    const start = performance.now();
    message.state = "streaming";
    try {
      for await (const chunk of streamChat(messages, this.abort.signal)) {
        add(message, chunk);
        message.stats = { ...message.stats, seconds: (performance.now() - start) / 1000 };
        this.onchange(message);
      }
      message.state = "done";
    } catch (error) {
      this.#failed(error);
    }
    delete message.progress;
    this.onchange(message);
  }

  #failed(error) {
    const { message } = this;
    if (this.abort.signal.aborted) {
      message.state = "stopped";
      return;
    }
    if (!(error instanceof Problem)) console.error(error); // a mistake of this page's
    message.state = "failed";
    message.problem = { kind: error.kind ?? "other", text: error.message };
  }
}
