"""A chat: messages to a prompt by the model's template, and the text that comes back to content, thoughts and calls."""

from .deltas import Answer, Delta
from .parser import AnswerParser
from .plan import ChatPlan, plan_chat, plan_prompt

__all__ = ["Answer", "AnswerParser", "ChatPlan", "Delta", "plan_chat", "plan_prompt"]
