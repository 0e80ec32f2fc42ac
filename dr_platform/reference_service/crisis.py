"""Signs of a crisis in what a person writes, and what they are told first.

By words and shapes of sentences; no model. It errs towards seeing one: a number shown to somebody
who did not need it costs nothing. What it cannot see: a crisis that is only hinted at.
The numbers are those of the United States; people elsewhere are sent to their own emergency number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum


class CrisisKind(StrEnum):
    SUICIDE = "suicide"
    SELF_HARM = "self-harm"
    HARM_TO_OTHERS = "harm-to-others"
    OVERDOSE = "overdose"
    ABUSE = "abuse"
    MEDICAL_EMERGENCY = "medical-emergency"


LIFELINE = "988"
EMERGENCY = "911"

NOTICES: Mapping[CrisisKind, str] = {
    CrisisKind.SUICIDE: (
        "If you may act on thoughts of ending your life, call or text 988 now (Suicide & Crisis Lifeline, in the"
        " United States, at any hour), or call 911."
    ),
    CrisisKind.SELF_HARM: (
        "If you have hurt yourself or are about to, call 911 for an injury, or call or text 988 to talk to somebody"
        " now (in the United States, at any hour)."
    ),
    CrisisKind.HARM_TO_OTHERS: (
        "If somebody may get hurt, call 911 now. You can also call or text 988 to talk to somebody about what you"
        " feel (in the United States, at any hour)."
    ),
    CrisisKind.OVERDOSE: (
        "If somebody has taken too much of something, call 911 when they are drowsy, breathe badly or cannot be"
        " woken; else call Poison Help, 1-800-222-1222 (in the United States, at any hour)."
    ),
    CrisisKind.ABUSE: (
        "If you are in danger, call 911. The National Domestic Violence Hotline, 1-800-799-7233, answers at any hour"
        " (in the United States)."
    ),
    CrisisKind.MEDICAL_EMERGENCY: "This may be an emergency: call 911 now, do not wait for an answer here.",
}
ELSEWHERE = "Outside the United States, call your local emergency number."

_ME = r"(?:me|myself|my\s?self|my\s+own\s+life|my\s+life)"
_WISH = (
    r"(?:want|wants|wanted|wanna|going|gonna|plan|planning|plans|thinking|think|thought|thoughts|ready|like|tempted"
    r"|try|trying|tried|about|could|might|will|should)"
)
_PATTERNS: Mapping[CrisisKind, tuple[str, ...]] = {
    CrisisKind.SUICIDE: (
        r"\bsuicid(?:e|al)\b",
        r"\bkill(?:ing|ed|s)?\s+(?:my\s?self|himself|herself|themsel(?:f|ves)|yourself)\b",
        r"\b(?:end|ending|ended|take|taking|took)\s+(?:it\s+all|(?:my|his|her|their)\s+(?:own\s+)?life)\b",
        r"\b(?:want|wants|wanted|wanna|wish(?:es)?|rather|ready)\s+(?:\w+\s+){0,3}?(?:die|be\s+dead|not\s+(?:be\s+alive|exist|wake\s+up))\b",
        r"\bwish\w*\s+(?:\w+\s+){0,3}?(?:dead|never\s+(?:been\s+)?born|would(?:n['’]?t| not)\s+wake\s+up)\b",
        r"\bbetter\s+off\s+(?:dead|without\s+me|if\s+i\s+(?:was|were)\s+(?:dead|gone))\b",
        r"\b(?:don['’]?t|do\s+not|no\s+longer)\s+(?:want|wish)\s+to\s+(?:live|be\s+alive|be\s+here\s+any\s?more|wake\s+up|exist)\b",
        r"\b(?:no|any)\s+(?:reason|point)\s+(?:to|in)\s+(?:live|living|go(?:ing)?\s+on)\b",
        r"\b(?:can['’]?t|cannot|can\s+not)\s+(?:go\s+on|do\s+this|take\s+it|live\s+like\s+this)\s+any\s?more\b",
        r"\b(?:hang|shoot|drown|jump)\w*\s+(?:my\s?self|off\s+(?:a|the)\s+(?:bridge|roof|building))\b",
        r"\b(?:goodbye|good-bye)\s+(?:note|letter)\b",
    ),
    CrisisKind.SELF_HARM: (
        r"\b(?:cut|cutting|burn|burning|hurt|hurting|harm|harming|injure|injuring)\s+(?:my\s?self|herself|himself|themselves)\b",
        r"\bself[\s-]?(?:harm|injur)\w*\b",
        r"\bcut(?:ting)?\s+my\s+(?:arms?|wrists?|legs?|thighs?|skin)\b",
    ),
    CrisisKind.HARM_TO_OTHERS: (
        rf"\b{_WISH}\s+(?:\w+\s+){{0,3}}?(?:kill|murder|shoot|stab|strangle)\s+(?!time|the\s+(?:time|mood|lights?|engine)|it\b|two\s+birds|(?:my|him|her|them|your)sel)(?:him|her|them|someone|somebody|people|everyone|my|the|you)\b",
        r"\b(?:hurt|harm|kill)\s+(?:my|the|our)\s+(?:baby|kids?|child(?:ren)?|wife|husband|partner|mother|father|mom|dad|boss|roommate)\b",
    ),
    CrisisKind.OVERDOSE: (
        r"\boverdos\w*\b",
        r"\b(?:took|taken|swallowed|ate)\s+(?:\w+\s+){0,3}?(?:too\s+many|too\s+much|all\s+(?:of\s+)?(?:my|the|his|her|their|those|these)\s+(?:\w+\s+)?(?:pills?|tablets?|capsules?|meds|medic\w+)|a\s+(?:whole\s+)?bottle\s+of|the\s+whole\s+bottle)\b",
        r"\b(?:swallowed|drank|drunk|ate)\s+(?:\w+\s+){0,3}?(?:bleach|antifreeze|poison|detergent|drain\s+cleaner|batter(?:y|ies))\b",
        r"\bpoison(?:ed|ing)\b",
    ),
    CrisisKind.ABUSE: (
        r"\b(?:he|she|they|husband|wife|partner|boyfriend|girlfriend|dad|mom|father|mother|stepdad|stepfather)\s+(?:\w+\s+){0,2}?(?:hits?|beats?|chokes?|choked|punche[sd]|kicks?|rapes?|raped|strangled|threatens?\s+(?:me|to\s+kill))\b",
        r"\b(?:raped|molested|sexually\s+assaulted)\b",
        r"\b(?:afraid|scared|terrified)\s+(?:of\s+what|(?:that\s+)?(?:he|she|they)(?:['’]ll|\s+(?:will|is\s+going\s+to|might)))\b",
        r"\bbeing\s+(?:abused|beaten|hit|molested|raped)\b",
    ),
    CrisisKind.MEDICAL_EMERGENCY: (
        r"\b(?:can['’]?t|cannot|can\s+not|trouble|struggling\s+to|hardly)\s+breath(?:e|ing)\b",
        r"\b(?:crushing|severe|bad|sudden)\s+(?:\w+\s+)?chest\s+pain\b|\bchest\s+pain\b.{0,40}\b(?:arm|jaw|sweat\w*|breath\w*)\b",
        r"\b(?:won['’]?t|will\s+not|can['’]?t|cannot|not)\s+(?:wake\s+up|stop\s+bleeding)\b",
        r"\b(?:unconscious|unresponsive|seizure|stopped\s+breathing|turning\s+blue|lips\s+are\s+blue|bleeding\s+(?:a\s+lot|heavily|out))\b",
        r"\b(?:face|mouth)\b.{0,40}\b(?:droop\w*|lopsided|numb)\b|\b(?:words?|speech)\b.{0,40}\b(?:slurred|mushy|garbled)\b",
        r"\bhaving\s+a\s+(?:stroke|heart\s+attack)\b",
    ),
}
_COMPILED = {kind: tuple(re.compile(p, re.IGNORECASE) for p in patterns) for kind, patterns in _PATTERNS.items()}

# Turns of phrase that hold the words and not the meaning. They are taken out before looking, so that
# a real sign beside one of them is still seen.
_IDIOMS = re.compile(
    r"\bkill(?:ing)?\s+(?:time|two\s+birds|the\s+(?:mood|lights?|engine)|it\b)"
    r"|\b(?:dying|die)\s+(?:to\s+(?:see|know|try|meet|hear)|for\s+a|of\s+(?:laughter|boredom))"
    r"|\b(?:suicide\s+squad|suicide\s+prevention\s+(?:month|week|training))"
    r"|\bmy\s+(?:back|feet|head|knees?)\s+(?:is|are)\s+killing\s+me",
    re.IGNORECASE,
)


def find_crisis(text: str) -> tuple[CrisisKind, ...]:
    """Kinds of crisis the text shows signs of, each once, in the order of the enumeration."""
    rest = _IDIOMS.sub(" ", text)
    return tuple(kind for kind, patterns in _COMPILED.items() if any(p.search(rest) for p in patterns))


def notice(kinds: tuple[CrisisKind, ...]) -> str:
    """What a person is told before anything else; empty where there is no sign."""
    return " ".join([*(NOTICES[kind] for kind in kinds), ELSEWHERE]) if kinds else ""
