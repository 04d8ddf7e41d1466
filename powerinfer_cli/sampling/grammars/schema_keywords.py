"""What is done with each keyword of JSON Schema, from draft 4 to 2020-12."""

from enum import Enum

__all__ = ["FORMATS", "KEYWORDS", "Handling"]


class Handling(Enum):
    """HELD: llguidance writes nothing else. REWRITTEN: into keywords that are held, where that is exact and small, else
    LOOSE: the text may break it, which is said. SILENT: there is nothing in it that a text could break.
    """

    HELD = "held"
    REWRITTEN = "rewritten"
    LOOSE = "loose"
    SILENT = "silent"


_BY_HANDLING = {
    Handling.HELD: """type enum const allOf anyOf $ref $defs definitions properties required additionalProperties
        patternProperties items prefixItems additionalItems minItems maxItems minLength maxLength pattern
        multipleOf""",
    Handling.REWRITTEN: """oneOf format minimum maximum exclusiveMinimum exclusiveMaximum minProperties maxProperties
        not propertyNames dependentRequired dependencies if then else uniqueItems""",
    Handling.LOOSE: """contains minContains maxContains dependentSchemas unevaluatedItems unevaluatedProperties
        $dynamicRef $recursiveRef""",
    Handling.SILENT: """title description default examples example deprecated readOnly writeOnly $comment $schema $id id
        $anchor $dynamicAnchor $recursiveAnchor $vocabulary contentMediaType contentEncoding contentSchema""",
}
KEYWORDS = {word: handling for handling, words in _BY_HANDLING.items() for word in words.split()}
"""All that the drafts have; anything else in a schema is somebody's own, and silent."""

FORMATS = frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"])
"""The values of `format` that are held."""
