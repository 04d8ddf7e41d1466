// The list of conversations.

import { $, beginning, el, iconButton } from "./dom.js";

function exported({ title, changed, messages }) {
  const kept = messages.map(({ role, content, reasoning, tool_calls }) => ({
    role,
    content,
    ...(reasoning && { reasoning_content: reasoning }),
    ...(tool_calls.length && { tool_calls }),
  }));
  return JSON.stringify({ title, changed: new Date(changed).toISOString(), messages: kept }, null, 2);
}

function download(conversation) {
  const url = URL.createObjectURL(new Blob([exported(conversation)], { type: "application/json" }));
  const name = beginning((conversation.title || "chat").replace(/[^\p{L}\p{N}]+/gu, "-"), 40);
  el("a", { href: url, download: `${name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Conversations without a message are not listed, the shown one apart. */
export function paintSidebar(conversations, shown, writes, { onselect, ondelete }) {
  const rows = conversations
    .filter((chat) => chat === shown || chat.messages.length || chat.draft)
    .map((chat) => {
      const name = chat.title || beginning(chat.draft.trim(), 60) || "New chat";
      const open = el("button", { type: "button", className: "open", textContent: name, title: name });
      open.onclick = () => onselect(chat);
      if (chat === shown) open.setAttribute("aria-current", "true");
      const row = el("li", { className: writes(chat) ? "writing" : "" }, open);
      if (chat.messages.length) row.append(iconButton("save", `Export: ${name}`, () => download(chat)));
      row.append(iconButton("trash", `Delete: ${name}`, () => ondelete(chat)));
      return row;
    });
  $("conversations").replaceChildren(...rows);
}
