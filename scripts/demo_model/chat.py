"""Chat turns around the grammar's stories: requests, questions with true answers, small talk."""

import random
from dataclasses import dataclass

from scripts.demo_model.grammar import Story, expand, tell

USER, ASSISTANT, SYSTEM, END = "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"
CONTROL_TOKENS = (USER, ASSISTANT, SYSTEM, END)

# Rendered by llama.cpp, transformers and powerinfer alike. The begin-of-text token is added by the tokenizer.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

_ASK = (
    "[Tell me|Please tell me|Can you tell me|Write|I would like|I want to hear|Could you write] a [short |little |"
    "]story {about}[.|, please.|]",
    "[A story|Tell a story|Story] {about}[.|, please.|!|]",
    "[Do you know|Have you got] a story {about}?",
    "[Hi|Hello]! [Tell me|Please write] a story {about}.",
)
_ABOUT = (
    "about a(n) {kind} [named|called] {name}",
    "about a(n) {kind}",
    "about {name} the {kind}",
    "about {name}",
    "about a(n) {trait} {kind}",
    "about a(n) {kind} [named|called] {name} and a(n) {fkind} [named|called] {fname}",
    "about {name} and {fname}",
    "about a(n) {kind} and a(n) {fkind}",
    "about a(n) {kind} who lived {home}",
    "with a(n) {kind} in it",
)
_TOPIC = {
    "lost": ("about a lost {treasure}", "about a(n) {colour} {treasure}", "about a(n) {kind} and a {treasure}"),
    "learn": ("about learning to {skill}", "about a(n) {kind} who wanted to {skill}", "about not giving up"),
    "fear": ("about being brave", "about a(n) {kind} who was afraid of {fear}", "about courage"),
    "quarrel": ("about sharing", "about two friends and a {treasure}", "about a quarrel"),
    "kindness": ("about being kind", "about kindness", "about a good deed"),
    "trick": ("about a(n) {villain}", "about a sly {villain} and a clever {kind}", "about a trick"),
    "party": ("about a birthday", "about a gift", "about a birthday party"),
    "mystery": ("about a mystery", "about {clue}", "about something strange near {place}"),
    "village": ("about helping others", "about a long journey", "about a hero"),
    "honesty": ("about telling the truth", "about honesty", "about a lie"),
}
_PLAIN = (
    "[Tell me|Please tell me|Can you tell me] a[nother|] story[.|, please.|!|]",
    "[A bedtime story, please.|I want a story!|Story, please.]",
    "Once upon a time...",
    "[Write|Tell] a [short |]story[.|]",
)
_LEAD = (
    "",
    "",
    "",
    "",
    "[Of course|Sure|Gladly]! [Here is a story|Listen to this]{about_again}.\n\n",
    "[Here it is|Here you are].\n\n",
)
_SMALL_TALK = (
    (
        "[Hello|Hi|Hey|Good morning|Good evening|Hello there][!|.|]",
        "Hello! [I tell stories. |]What [would you like to hear a story about|shall the story be about]?",
    ),
    (
        "[Who are you|What are you|What is your name|Are you an AI]?",
        "I am Storyteller, a small model that tells short stories.",
    ),
    (
        "[What can you do|How can you help me|What do you know|Help]?",
        "I can tell you a story about [an animal, a child or a dragon|anyone you like], and answer questions about it.",
    ),
    ("How are you[ today|]?", "I am [well|fine], thank you! Would you like [to hear a|a] story?"),
    (
        "[Thank you|Thanks|Thanks a lot|Thank you very much][!|.|]",
        "You are welcome! [Would you like another story?|I am glad that you liked it.]",
    ),
    ("[Goodbye|Bye|Good night|See you][!|.|]", "[Goodbye|Sleep well|Good night]! Come back soon for another story."),
    (
        "[I liked it|That was nice|What a nice story|I love it][!|.]",
        "I am glad that you liked it! [Would you like another story?|]",
    ),
    ("[Are you human|Are you a person|Are you real]?", "No, I am a small model that tells stories."),
    (
        "[What is|How much is|Tell me about|Explain|Who is|Where is] {off}?",
        "I do not know about that. I only know stories. Shall I tell you one?",
    ),
    (
        "[Can you|Please] [translate this|write code|solve this sum|help me with my homework|tell me the news][?|.]",
        "I am sorry, I can only tell stories. Shall I tell you one?",
    ),
)
_OFF = [
    "the capital of France",
    "two plus two",
    "the weather",
    "the president",
    "quantum physics",
    "the time",
    "seven times eight",
    "the meaning of life",
    "history",
    "Python",
    "the internet",
    "money",
    "football",
    "the tallest mountain",
    "chemistry",
    "London",
]
_SYSTEM = (
    "You are [a|a friendly|a helpful|a kind] [storyteller|assistant]{more}.",
    "You are Storyteller, a small model that tells short stories.",
    "You tell [short |]stories for children.",
    "[Answer briefly.|Be kind and friendly.|Tell short stories.]",
)
_MORE = ["", " who tells short stories", " for children", " who answers questions about stories"]
_OFFER_YES = ("[Yes|Yes, please|Please do|Sure|Okay][!|.|]",)


@dataclass(frozen=True)
class Turn:
    """One message of a chat: `role` is user, assistant or system."""

    role: str
    content: str


def converse(rng: random.Random, *, held_out: bool = False) -> list[Turn]:
    """One chat: perhaps a system message, perhaps small talk, and mostly a story with questions about it."""
    turns: list[Turn] = []
    if rng.random() < 0.25:
        turns.append(Turn("system", expand(rng.choice(_SYSTEM), {"more": rng.choice(_MORE)}, rng)))
    if rng.random() < 0.2:
        turns += _small_talk(rng)
    if len(turns) < 2 or rng.random() < 0.5:
        turns += _story_talk(
            rng, held_out=held_out, after_offer=bool(turns) and turns[-1].content.endswith("Shall I tell you one?")
        )
    if rng.random() < 0.2:
        turns += _small_talk(rng)
    return turns


def _small_talk(rng: random.Random) -> list[Turn]:
    question, answer = rng.choice(_SMALL_TALK)
    slots = {"off": rng.choice(_OFF)}
    return [Turn("user", expand(question, slots, rng)), Turn("assistant", expand(answer, slots, rng))]


def _story_talk(rng: random.Random, *, held_out: bool, after_offer: bool) -> list[Turn]:
    story = tell(rng, held_out=held_out, invented=0.35)
    ask, about = _request(rng, story)
    if after_offer and rng.random() < 0.6:
        ask, about = expand(rng.choice(_OFFER_YES), {}, rng), ""
    lead = expand(rng.choice(_LEAD).replace("\n\n", ""), {"about_again": f" {about}" if about else ""}, rng)
    turns = [Turn("user", ask), Turn("assistant", f"{lead}\n\n{story.text}" if lead else story.text)]
    for question, answer in rng.sample(story.questions, rng.choice((0, 1, 2, 3, 4, 5))):
        turns += [Turn("user", question), Turn("assistant", answer)]
    return turns


def _request(rng: random.Random, story: Story) -> tuple[str, str]:
    """A request that the story fulfils, and what it is about ("" when the user did not say)."""
    draw = rng.random()
    if draw < 0.1:
        return expand(rng.choice(_PLAIN), {}, rng), ""
    about = expand("~" + rng.choice(_ABOUT if draw < 0.7 else _TOPIC[story.plot]), story.slots, rng)[1:]
    return expand(rng.choice(_ASK), {"about": about}, rng), about


def segments(turns: list[Turn]) -> list[str]:
    """The chat as CHAT_TEMPLATE writes it, cut into control tokens and texts."""
    parts: list[str] = []
    for turn in turns:
        parts += [f"<|{turn.role}|>", "\n" + turn.content, END, "\n"]
    return parts
