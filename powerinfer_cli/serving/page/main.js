// Puts the parts together.

import { modelJSON } from "./api.js";
import { Chat } from "./chat.js";
import { $, dressButtons } from "./dom.js";
import { Health } from "./health.js";
import { NeuronPanel } from "./neurons.js";
import { Models } from "./models.js";
import { openSettings, setUpSettings, showDefaults } from "./settings.js";
import { paintSidebar } from "./sidebar.js";
import { current, deleteConversation, isChatKey, loadConversations, newConversation, saveConversation, saveTheme } from "./store.js";

dressButtons();

let conversations = loadConversations();
const health = new Health({
  onready: welcome,
  onchange: () => chat.paintControls(),
  onkey: () => openSettings("key", "The server wants an API key."),
});
const chat = new Chat({ onchange: changed, onunsaved: storageFull, ready: () => health.state !== "loading" });
const neurons = new NeuronPanel(() => chat.busy, shade);
const models = new Models(async () => {
  showDefaults(await modelJSON("props").catch(() => null)); // a model that is not loaded does not tell
  neurons.check();
});

function welcome(props) {
  if (props.role === "router") {
    models.begin();
    return;
  }
  const name = (props.model_alias || props.model_path || "PowerInfer").split("/").pop();
  $("model").textContent = name;
  document.title = `${name} – PowerInfer`;
  showDefaults(props);
  neurons.check();
}

function paintList() {
  paintSidebar(conversations, chat.conversation, ({ id }) => chat.answers.has(id), { onselect: select, ondelete: remove });
}

function changed() {
  paintList();
  neurons.refresh();
  models.look();
  const failed = chat.conversation.messages.at(-1)?.problem;
  if (failed && ["gone", "cut", "loading"].includes(failed.kind)) health.check();
}

function select(conversation) {
  current.set(conversation.id);
  chat.show(conversation);
  drawSidebar(false);
  paintList();
  if (!matchMedia("(pointer: coarse)").matches) $("input").focus(); // no keyboard jumps up on a phone
}

function startNew() {
  const empty = conversations.find(({ messages, draft }) => !messages.length && !draft);
  const conversation = empty ?? newConversation();
  if (!empty) conversations.unshift(conversation);
  select(conversation);
}

function remove(conversation) {
  chat.forget(conversation);
  deleteConversation(conversation);
  conversation.deleted = true;
  const at = conversations.indexOf(conversation);
  conversations.splice(at, 1);
  if (conversation === chat.conversation) startNew();
  else paintList();
  toast("Conversation deleted.", () => {
    delete conversation.deleted;
    conversations.splice(at, 0, conversation);
    saveConversation(conversation);
    select(conversation);
  });
}

let toastTimer;
function toast(text, undo) {
  const [words, button] = $("toast").children;
  words.textContent = text;
  button.hidden = !undo;
  button.onclick = () => {
    $("toast").hidden = true;
    undo();
  };
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => ($("toast").hidden = true), 8000);
}

function storageFull() {
  toast("The browser's storage is full or switched off: this conversation will not be kept.");
}

function drawSidebar(open) {
  $("sidebar").classList.toggle("open", open);
  $("open-sidebar").setAttribute("aria-expanded", String(open));
  shade();
  if (open) $("new-chat").focus();
}

/** Behind a drawer, where the window has no room beside it. */
function shade() {
  $("shade").hidden = !$("sidebar").classList.contains("open") && $("neurons").hidden;
}

function setUpTheme() {
  const root = document.documentElement;
  $("toggle-theme").onclick = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    saveTheme(root.dataset.theme);
  };
}

function escape(event) {
  if (event.key !== "Escape" || $("settings").open) return;
  if ($("sidebar").classList.contains("open")) {
    drawSidebar(false);
    $("open-sidebar").focus();
  } else if (chat.answers.has(chat.conversation.id)) chat.stop();
  else if (!$("neurons").hidden) neurons.toggle(false);
}

$("new-chat").onclick = startNew;
$("open-sidebar").onclick = () => drawSidebar(true);
$("close-sidebar").onclick = () => drawSidebar(false);
$("shade").onclick = () => {
  drawSidebar(false);
  if (!$("neurons").hidden) neurons.toggle(false);
};
document.addEventListener("keydown", escape);
window.addEventListener("storage", ({ key }) => {
  if (!isChatKey(key)) return; // another tab's theme or settings
  const ours = conversations.filter(({ id }) => chat.answers.has(id) || id === chat.conversation.id);
  const theirs = loadConversations().filter(({ id }) => !ours.some((chat) => chat.id === id));
  conversations = [...ours, ...theirs].sort((a, b) => b.changed - a.changed);
  paintList();
});
setUpSettings(() => health.check());
setUpTheme();
const last = conversations.find(({ id }) => id === current.get());
if (last) select(last);
else startNew();
health.check();
