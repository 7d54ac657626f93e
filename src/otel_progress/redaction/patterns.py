"""Patterns of secrets in keys and texts.

Each search takes time linear to the text's length.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

REDACTED: Final = "[redacted]"
"""Replacement of a secret."""


# --- keys -----------------------------------------------------------------------------------------

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


_SECRETS: Final = frozenset(
    {
        "authorization",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "jwt",
        "otp",
        "passcode",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "secret",
        "secrets",
        "token",
        "totp",
    }
)
"""Words that name a secret at the end of a key."""


_JOINED: Final = (
    *("password", "passwd", "passphrase", "apikey", "accesskey", "secretkey", "privatekey", "clientsecret"),
    *("accesstoken", "authtoken", "refreshtoken", "bearertoken", "sessionid", "sessid", "setcookie"),
)
"""Ends of compound words: ``pgpassword``, ``xapikey``."""


_KEYS: Final = frozenset(
    {
        "access",
        "account",
        "api",
        "auth",
        "client",
        "encryption",
        "master",
        "private",
        "secret",
        "shared",
        "signing",
        "ssh",
        "storage",
    }
)
"""Words that make a following ``key`` a secret. Others do not: ``primary_key``, ``sort_key``."""


_QUALIFIERS: Final = frozenset(
    {
        "b64",
        "base64",
        "data",
        "encrypted",
        "file",
        "hash",
        "header",
        "id",
        "ids",
        "key",
        "new",
        "old",
        "plain",
        "raw",
        "string",
        "text",
        "value",
    }
)
"""Words that may follow a word that names a secret: ``token_value``. Any other word changes the
meaning: ``token_count``.
"""


@lru_cache(maxsize=4096)
def is_sensitive_key(key: str) -> bool:
    """Return whether a key names a secret: ``dbPassword``, but not ``token_count``.

    The words of a key are in snake, kebab or camel case.
    """
    words = [word.lower() for word in _WORD.findall(key)]
    while len(words) > 1 and (words[-1] in _QUALIFIERS or words[-1].isdigit()) and not _names_secret(words):
        words.pop()
    return bool(words) and _names_secret(words)


def _names_secret(words: list[str]) -> bool:
    """Return whether the last word, together with the previous one, names a secret."""
    last, previous = words[-1], words[-2] if len(words) > 1 else ""
    if last in _SECRETS or last.endswith(_JOINED):
        return True
    if last in ("key", "keys"):
        return previous in _KEYS
    if last == "pwd":
        return bool(previous)  # alone it is the working directory, see _PATH
    if last == "signature":  # of a signed URL, but not of a function
        return previous in ("amz", "goog", "ms", "oss")
    if last in ("auth", "session"):  # but not training_session
        return previous in ("", "basic", "http", "login", "proxy", "user", "web", "x")
    return last == "id" and previous == "session"


# --- texts ----------------------------------------------------------------------------------------

_SHORTEST_FORM: Final = 15


_LONG_RUN: Final = re.compile(r"[A-Za-z0-9_\-]{15}")


_PAIR: Final = re.compile(
    r"(?<![A-Za-z0-9_.\-])-{0,3}([A-Za-z_][A-Za-z0-9_.\-]{0,80})"
    r"(\\?[\"']?[ \t]{0,4}(?:=>|==|:=|[:=])[ \t]{0,4})"
)


_OPTION: Final = re.compile(r"(?<![A-Za-z0-9_.\-])--([A-Za-z][A-Za-z0-9_.\-]{0,80})([ \t]{1,4})(?=[^\s\-])")


_VALUE: Final = re.compile(
    r"""\\"(?:[^"\\]|\\[^"])*(?:\\")?|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s,;&"']+""", re.DOTALL
)


_SCHEME: Final = re.compile(r"(?:bearer|basic|digest|token|negotiate|apikey)[ \t]+(?=\S)", re.IGNORECASE)


_LINE: Final = re.compile(r"[^\r\n\"'}]+")


_WHOLE_LINE: Final = frozenset({"authorization", "cookie", "cookies"})


_PATH: Final = re.compile(r"[\"']?(?:[/~.$\\\s]|[A-Za-z]:\\|\Z)")
"""Start of a path. ``pwd=`` before it is the working directory. Before other values, as in
``Uid=me;Pwd=…``, it is a password.
"""


_NEXT_LINE: Final = re.compile(r"[ \t]*\r?\n[ \t]{0,16}(?![^\s:]{0,80}:(?:\s|\Z))(?=\S)")
"""Line break between a key and its value. In YAML, a line with another key is not the value."""


_LOOSE: Final = frozenset({"auth", "session"})
"""Keys that are ordinary words before a colon in a sentence."""


_USERINFO: Final = re.compile(r"(://[^\s/?#:@\"'<>]*:)([^\s/?#\"'<>]+)(@|…\Z)")


_WEB_USERINFO: Final = re.compile(r"(\bhttps?://)(?!git@)[^\s/?#:@\"'<>]+(?=@)", re.IGNORECASE)
"""User of a web address without a password, which is usually a token."""


_SIGNATURE: Final = re.compile(r"([?&]sig=)[^\s&#\"'<>]+", re.IGNORECASE)
"""Signature in a URL of Azure."""


_CURL_USER: Final = re.compile(
    r"((?:^|\s)(?:-u[ \t]{0,4}|--user[ \t=]{1,4})[\"']?[^\s:\"']{0,100}:)[^\s\"']+"
)


_MYSQL_PASSWORD: Final = re.compile(r"((?:^|\s)-p)(?:\"[^\"]*\"?|'[^']*'?|[^\s\"']+)")


_ELEMENT: Final = re.compile(
    r"<(?:[A-Za-z_][\w.\-]{0,80}:)?([A-Za-z_][\w.\-]{0,80})(?:[ \t][^<>]{0,200})?>([^<>]+)(?=</|…\Z|\Z)"
)


_BEARER: Final = re.compile(
    r"(\bbearer[ \t]+)(?=[^\s]{0,4096}?[0-9._])[A-Za-z0-9._~+/=\-]{8,}", re.IGNORECASE
)


_FORMS: Final = re.compile(
    # Why "-" and "_" may precede: names are often made of a word and a key, as "job-ghp_...".
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS access keys
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_\-]{16,}"  # GitHub, GitLab
    r"|xox[abeoprs]-[A-Za-z0-9\-]{10,}"  # Slack
    r"|AIza[A-Za-z0-9_\-]{30,}"  # Google
    # Why not here: "sk" is short, as in the names "locale-sk-..." and "table_sk_...".
    r"|(?<![_\-])[sr]k[-_](?:live_|test_|ant-|proj-)?[A-Za-z0-9_\-]{20,}"  # Stripe, OpenAI, Anthropic
    r"|eyJ[A-Za-z0-9_\-]{10,}(?:\.[A-Za-z0-9_\-]*){0,4}"  # JSON web tokens, also cut ones
    r")"
)


_PEM: Final = re.compile(
    r"(-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----).*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.DOTALL
)


def redact_text(text: str) -> str:
    """Return a text with redacted secrets.

    Secrets are ``password=…``, ``Authorization: …``, ``//user:…@``, and known formats of keys.
    """
    if "://" in text:
        text = _USERINFO.sub(rf"\1{REDACTED}\3", text)
        if "@" in text:
            text = _WEB_USERINFO.sub(rf"\1{REDACTED}", text)
    lower = text.lower()
    if "curl" in lower:
        text = _CURL_USER.sub(rf"\1{REDACTED}", text)
    if "mysql" in lower or "mariadb" in lower:
        text = _MYSQL_PASSWORD.sub(rf"\1{REDACTED}", text)
    if len(text) >= 5 and _may_name_secret(lower):
        if "PRIVATE KEY" in text:
            text = _PEM.sub(rf"\1{REDACTED}", text)
        if ":" in text or "=" in text:
            text = _redact_values(_PAIR, text)
        if "--" in text:
            text = _redact_values(_OPTION, text)
        if "<" in text and ">" in text:
            text = _ELEMENT.sub(_redact_element, text)
        if "sig=" in lower:
            text = _SIGNATURE.sub(rf"\1{REDACTED}", text)
        text = _BEARER.sub(rf"\1{REDACTED}", text)
    if len(text) >= _SHORTEST_FORM and _LONG_RUN.search(text):
        text = _FORMS.sub(REDACTED, text)
    return text


def _may_name_secret(lower: str) -> bool:
    """Return whether a lower-case text can name a secret.

    Most texts do not, and a search for a few words is faster than any pattern.
    """
    return (
        "pass" in lower
        or "key" in lower
        or "token" in lower
        or "secret" in lower
        or "auth" in lower
        or "cookie" in lower
        or "sess" in lower
        or "bearer" in lower
        or "credential" in lower
        or "pwd" in lower
        or "jwt" in lower
        or "otp" in lower
        or "sig" in lower
    )


def _redact_values(pattern: re.Pattern[str], text: str) -> str:
    """Replace the value after each key that names a secret."""
    parts: list[str] = []
    copied = 0
    for match in pattern.finditer(text):
        key = match[1]
        if match.start() < copied or not _is_secret(key, match[2], text, match.end()):
            continue
        start = match.end()
        line_break = _NEXT_LINE.match(text, start) if ":" in match[2] else None
        start = start if line_break is None else line_break.end()
        end = _find_value_end(key, text, start)
        if end > start:
            parts += (text[copied:start], _build_mark(text, start))
            copied = end
    return "".join((*parts, text[copied:])) if parts else text


def _is_secret(key: str, separator: str, text: str, start: int) -> bool:
    """Return whether the value at ``start`` of a key is a secret."""
    lower = key.lower()
    if lower == "pwd":
        return "=" in separator and _PATH.match(text, start) is None
    return is_sensitive_key(key) and not (":" in separator and lower in _LOOSE)


def _redact_element(match: re.Match[str]) -> str:
    """Return an XML element with a redacted value if its name names a secret."""
    if not is_sensitive_key(match[1]) or not match[2].strip():
        return match[0]
    return f"{match.string[match.start() : match.start(2)]}{REDACTED}"


def _build_mark(text: str, start: int) -> str:
    """Return the replacement in the quotes of the value, so that JSON stays valid."""
    quote = text[start : start + 2] if text[start] == "\\" else text[start]
    return f"{quote}{REDACTED}{quote}" if quote[-1] in "\"'" else REDACTED


def _find_value_end(key: str, text: str, start: int) -> int:
    line = _LINE.match(text, start)
    if line is not None and key.lower().rpartition("-")[2] in _WHOLE_LINE:  # a header value has spaces
        return line.end()
    scheme = _SCHEME.match(text, start)
    value = _VALUE.match(text, start if scheme is None else scheme.end())
    return start if value is None else value.end()
