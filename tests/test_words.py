"""Words of docstrings, messages, config headers and pages: American spelling, and phrases that are not used."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "docs/**/*.md", "docs/*.py", "notebooks/*", "benchmarks/*.py", "benchmarks/*.md", "data/*.md")
FILES = [
    *(file for pattern in PATTERNS for file in sorted(ROOT.glob(pattern)) if "_build" not in file.parts),
    *sorted((ROOT / "seqmix").rglob("*.py")),
    *sorted((ROOT / "configs").rglob("*.yaml")),
]
# British spellings, by what they would be in American ones
SPELLINGS = {
    r"\w*(?:normal|initial|standard|optim|minim|maxim|general|regular|parametr|token|summar|recogn|vector|quant|discret"
    r"|serial|synchron|factor|penal|material|visual|organ|emphas|local|capital|categor|random|equal|special|stabil|memor"
    r"|author|harmon|diagonal|orthogonal|character|util)is(?:e|es|ed|er|ers|ing|ation|ations)": "-ize",
    r"\w*(?:colo|behavio|neighbo|favo|hono|labo)ur\w*": "-or",
    r"(?:centre|metre|fibre)[sd]?": "-er",
    r"centring": "centering",
    r"\w*(?:label|model|cancel|travel|channel|total)l(?:ed|ing)": "one l",
    r"analys(?:e|ed|er|ing)": "analyze",
    r"grey\w*": "gray",
    r"licences?|defences?": "-se",
    r"catalogues?|programmes?|artefacts?|judgements?|whilst|learnt|spelt": "American form",
}
# what is said in another way, and how
PHRASES = {
    r"the season before": "the seasonal naive forecast",
    r"freed of": "normalized to zero mean and unit variance",
    r"see each series as a sample": "train one model on all series",
    r"steps that are left out": "missing time steps",
    r"(?<!\w )what makes": "a factory, or: model class, functools.partial or config entry",
    r"whatever makes": "a factory",
    r"what training minimizes": "the training loss",
    r"what results call": "the name in results",
    r"what came(?:,| of a)": "the observed values; the result",
    r"has taught|have taught": "learned from",
    r"the cheap before the dear": "cheap models first",
    r"errors apart by": "errors grouped by",
    r"over and over": "repeated",
    r"(?:is|are) not looked at": "ignored",
    r"without a better one before": "without improvement after which",
    r"if not given": "Default: ...",
    r"found in the file": "inferred",
    r"with commas between them": "separated by commas",
    r"whole or not at all": "atomically",
    r"may not stand in": "is not part of",
    r"never stands? in a config": "is not part of a config",
    r"among the matrix mixers": "as a matrix mixer",
    r"(?<!there )is no (?:file|folder|table|number|date|time|class|checkpoint|frame)": "is not a",
    r"right answers": "correct predictions",
    r"(?:the|a) likelie(?:r|st)": "more likely, most likely",
    r"what (?:several )?\w+ promises": "the contract of",
    r"(?:worked on|looked at|filled|forecast|classified|reconstructed|counted|convolved) at a time": "per block",
    r"nobody asks": "only on request",
    r"channels apart in memory": "channel-major memory",
    r"the stubs (?:know|take)": "the type stubs declare",
    r"(?:given|made) what \w+ (?:gave|made of)": "from the results of",
}


def test_spellings():
    ours = {re.compile(word, re.IGNORECASE): instead for word, instead in SPELLINGS.items()}
    # each word once: names in capitals are those of other people
    words = {word: file for file in FILES for word in re.findall(r"\w+", file.read_text()) if not word.isupper()}
    found = [
        f"{words[word].relative_to(ROOT)}: {word}: use {instead!r}"
        for word in words
        for pattern, instead in ours.items()
        if pattern.fullmatch(word)
    ]
    assert not found, "\n".join(found)


def test_phrases():
    ours = {re.compile(rf"\b(?:{phrase})\b"): instead for phrase, instead in PHRASES.items()}
    found = []
    for file in FILES:
        # one line, without the marks of comments
        text = re.sub(r"\s+(?:# )?\s*", " ", file.read_text().lower())
        for phrase, instead in ours.items():
            for hit in phrase.finditer(text):
                place = text[max(hit.start() - 30, 0) : hit.end() + 30]
                found.append(f"{file.relative_to(ROOT)}: ...{place}...: use {instead!r}")
    assert not found, "\n".join(found)


def test_the_lists_find_what_they_are_for():
    for words, sample in ((SPELLINGS, "the normalised colours of neighbours"), (PHRASES, "D if not given")):
        assert any(re.search(rf"\b(?:{word})\b", sample) for word in words)


def test_public_methods_have_a_docstring_or_that_of_a_base():
    # by name of the class: its bases, and its methods with and without a docstring
    bases, said, silent = defaultdict(set), defaultdict(set), []
    for file in (ROOT / "seqmix").rglob("*.py"):
        for node in (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)):
            bases[node.name] |= {base.id for base in node.bases if isinstance(base, ast.Name)} - {node.name}
            for method in (part for part in node.body if isinstance(part, ast.FunctionDef) and part.name[0] != "_"):
                if ast.get_docstring(method):
                    said[node.name].add(method.name)
                else:
                    silent.append((node.name, method.name))

    def inherits(cls, method):
        return method in said[cls] or any(inherits(base, method) for base in [*bases[cls]])

    assert not [f"{cls}.{method}" for cls, method in silent if cls[0] != "_" and not inherits(cls, method)]


def test_versions_agree():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert f'"ruff=={hook["rev"].removeprefix("v")}"' in (ROOT / "pyproject.toml").read_text()
    version = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert f'__version__ = "{version}"' in (ROOT / "seqmix" / "__init__.py").read_text()
    assert f"## {version} " in (ROOT / "CHANGELOG.md").read_text()
