// What the browser keeps: conversations, each under a key of its own, and settings. What cannot be read is not there;
// where storage is full or switched off, the page goes on without.

const PREFIX = "powerinfer.chat.";
const SETTINGS = "powerinfer.settings";
const CHOICE = "powerinfer.model";
const ROLES = ["user", "assistant"];

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

/** Whether it was kept. */
function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

const text = (value) => (typeof value === "string" ? value : "");

function message(value) {
  if (!value || !ROLES.includes(value.role) || typeof value.content !== "string") return null;
  const calls = Array.isArray(value.tool_calls) ? value.tool_calls.filter((call) => call?.function) : [];
  return {
    role: value.role,
    content: value.content,
    reasoning: text(value.reasoning),
    tool_calls: calls,
    // A page that was closed amid an answer has left it so.
    state: value.state === "streaming" ? "cut" : text(value.state) || "done",
    problem: value.problem && typeof value.problem.text === "string" ? value.problem : null,
    stats: value.stats && typeof value.stats === "object" ? value.stats : null,
  };
}

function conversation(value) {
  if (!value || typeof value.id !== "string" || !Array.isArray(value.messages)) return null;
  const messages = value.messages.map(message);
  if (messages.includes(null)) return null;
  return { id: value.id, title: text(value.title), changed: Number(value.changed) || 0, draft: text(value.draft), messages };
}

export const isChatKey = (key) => key === null || key.startsWith(PREFIX);

/** Newest first. */
export function loadConversations() {
  let keys = [];
  try {
    keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  } catch {
    // Storage is switched off.
  }
  const found = keys.map((key) => conversation(read(key))).filter((chat) => chat !== null);
  return found.sort((a, b) => b.changed - a.changed);
}

export const newConversation = () => ({
  id: `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 10)}`,
  title: "",
  changed: Date.now(),
  draft: "",
  messages: [],
});

export const saveConversation = (chat) => write(PREFIX + chat.id, chat);

export function deleteConversation(chat) {
  try {
    localStorage.removeItem(PREFIX + chat.id);
  } catch {
    // Then it was not kept either.
  }
}

export const newMessage = (role, content = "") => ({
  role,
  content,
  reasoning: "",
  tool_calls: [],
  state: "done",
  problem: null,
  stats: null,
});

/** model: of that one, where there are several; its key is that of all. */
export function loadSettings(model = "") {
  const kept = read(model ? `${SETTINGS}.${model}` : SETTINGS);
  const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
  return {
    system: text(kept?.system),
    temperature: number(kept?.temperature),
    top_p: number(kept?.top_p),
    max_tokens: number(kept?.max_tokens),
    key: text(kept?.key),
  };
}

export function saveSettings({ model, ...settings }) {
  if (model) write(`${SETTINGS}.${model}`, { ...settings, key: "" });
  return write(SETTINGS, model ? { ...read(SETTINGS), key: settings.key } : settings);
}

export const loadChoice = () => text(read(CHOICE));

export const saveChoice = (model) => write(CHOICE, model);

/** Which conversation this tab shows: a reload stays where it was, and two tabs do not disturb each other. */
export const current = {
  get() {
    try {
      return sessionStorage.getItem("powerinfer.current");
    } catch {
      return null;
    }
  },
  set(id) {
    try {
      sessionStorage.setItem("powerinfer.current", id);
    } catch {
      // A reload then shows the newest.
    }
  },
};

export function saveTheme(theme) {
  try {
    if (theme) localStorage.setItem("powerinfer.theme", theme);
    else localStorage.removeItem("powerinfer.theme");
  } catch {
    // It holds until the page is closed.
  }
}
