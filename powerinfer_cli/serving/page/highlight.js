// Colours for code, by what nearly all languages share: comments, strings, numbers, words that are reserved somewhere.

import { el } from "./dom.js";

const WORDS = new Set(
  (
    "abstract and as assert async await bool break case catch char class const continue debugger def default defer del " +
    "delete do double elif else end enum except export extends extern false False final finally float fn for from func " +
    "function global go goto if impl implements import in include instanceof int interface is lambda let local long loop " +
    "match mod module mut namespace new nil None nonlocal not null or package pass private protected pub public raise " +
    "range return self short signed sizeof static struct super switch then this throw throws trait true True try type " +
    "typedef typeof undefined union unsafe unsigned use using var virtual void volatile where while with yield"
  ).split(" "),
);
const SQL = new Set(
  "select from where insert into values update set delete create table join left right inner outer on group by order having limit as and or not null distinct union primary key".split(" "),
);
const SLASHES = "\\/\\/[^\\n]*|\\/\\*[\\s\\S]*?(?:\\*\\/|$)";
const HASH = "#[^\\n]*";
const COMMENTS = {
  ...Object.fromEntries("python py bash sh shell zsh ruby rb yaml yml toml r perl dockerfile makefile ini".split(" ").map((name) => [name, HASH])),
  ...Object.fromEntries("sql lua haskell hs".split(" ").map((name) => [name, "--[^\\n]*"])),
  ...Object.fromEntries("html xml svg markdown md".split(" ").map((name) => [name, "<!--[\\s\\S]*?(?:-->|$)"])),
};
const PLAIN = new Set(["", "text", "txt", "plain", "plaintext", "console", "output", "markdown", "md", "diff"]);
const STRING = "\"\"\"[\\s\\S]*?(?:\"\"\"|$)|'''[\\s\\S]*?(?:'''|$)|\"(?:\\\\.|[^\"\\\\\\n])*\"?|'(?:\\\\.|[^'\\\\\\n])*'|`(?:\\\\.|[^`\\\\])*`?";
const NUMBER = "\\b(?:0[xXbBoO][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\b";

/** Replaces the text of a code element by coloured spans. Text stays text. */
export function highlight(code, language) {
  const name = language.toLowerCase();
  const text = code.textContent;
  if (PLAIN.has(name) || text.length > 50_000) return;
  const comment = COMMENTS[name] ?? SLASHES;
  const pattern = new RegExp(`(?<comment>${comment})|(?<string>${STRING})|(?<number>${NUMBER})|(?<word>[A-Za-z_]\\w*)`, "g");
  const words = name === "sql" ? SQL : WORDS;
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(pattern)) {
    const kind = kindOf(found, words, name);
    if (!kind) continue;
    parts.push(text.slice(end, found.index), el("span", { className: `hl-${kind}`, textContent: found[0] }));
    end = found.index + found[0].length;
  }
  code.replaceChildren(...parts, text.slice(end));
}

function kindOf(found, words, language) {
  const { comment, string, number, word } = found.groups;
  if (comment !== undefined) return "comment";
  if (string !== undefined) return "string";
  if (number !== undefined) return "number";
  return words.has(language === "sql" ? word.toLowerCase() : word) ? "word" : null;
}
