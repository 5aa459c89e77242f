"""Harmless source code that looks like a module of some business program.

In: a seeded generator. Out: an endless iterator of functions and classes, all in one language (Python, JavaScript, Go or SQL),
built from shapes and a vocabulary of things and their fields.
"""

from collections.abc import Iterator
from random import Random
from typing import Final

THINGS: Final = tuple(
    "order invoice guest booking parcel ticket recipe sensor route album player lesson member loan tree shift report tank".split()
)
FIELDS: Final = tuple(
    "price weight height score name city start finish count rate colour level status note size owner depth age".split()
)
VERBS: Final = tuple("load merge rank group filter check update archive render parse split sort export count price".split())
REASONS: Final = (
    "Empty input is fine and gives an empty result.",
    "The caller holds the lock.",
    "Rounded to cents, as the accountants want it.",
    "Old records have no date; they count as new.",
    "Slow for more than a million entries.",
    "Ties are broken by name so that the result is stable.",
    "See the minutes of the meeting in March.",
    "Kept for the mobile app, which still asks for it.",
)

PYTHON: Final = (
    'def {verb}_{thing}s({thing}s: list[{Thing}], limit: int = {n}) -> list[{Thing}]:\n    """{reason}"""\n'
    "    kept = [item for item in {thing}s if item.{field} is not None]\n"
    "    kept.sort(key=lambda item: (item.{field}, item.{other}))\n    return kept[:limit]",
    "@dataclass(frozen=True)\nclass {Thing}{Other}:\n    {field}: float\n    {other}: str\n    {third}: int = {n}\n\n"
    "    def is_{field}_known(self) -> bool:\n        return self.{field} >= 0",
    "def total_{field}_of_{thing}(path: Path) -> float:\n    total = 0.0\n    with path.open() as lines:\n"
    "        for number, line in enumerate(lines):\n            try:\n                total += float(line.split(';')[{d}])\n"
    "            except ValueError:\n                log.warning('line %d of {thing}s: no {field}', number)\n    return total",
    "async def fetch_{thing}_{field}(client: Client, key: str) -> {Thing}:\n    # {reason}\n    for attempt in range({d}):\n"
    "        answer = await client.get(f'/{thing}s/{{key}}/{other}')\n        if answer.status < 500:\n"
    "            return {Thing}.parse(answer.body)\n        await sleep(0.{d} * 2**attempt)\n"
    "    raise {Thing}Missing(key)",
    "def test_{verb}_{thing}_keeps_{field}() -> None:\n    {thing} = make_{thing}({field}={n}, {other}='{third}')\n"
    "    assert {verb}({thing}).{field} == {n}",
    "class {Thing}Store:\n    def __init__(self) -> None:\n        self._by_{field}: dict[str, {Thing}] = {{}}\n\n"
    "    def add(self, {thing}: {Thing}) -> None:\n        if {thing}.{field} in self._by_{field}:\n"
    "            raise ValueError('two {thing}s with one {field}')\n        self._by_{field}[{thing}.{field}] = {thing}",
    "def {verb}_by_{field}({thing}s: Iterable[{Thing}]) -> dict[str, int]:\n    counts: Counter[str] = Counter()\n"
    "    for {thing} in {thing}s:\n        if {thing}.{other} > {n}:\n            continue  # {reason}\n"
    "        counts[{thing}.{field}] += 1\n    return dict(counts.most_common())",
    "{FIELD}_LIMITS = {{\n    'small': {n},\n    'middle': {m},\n    'large': {n}{d},\n}}\n\n\n"
    "def {field}_class(value: int) -> str:\n"
    "    return next((name for name, top in {FIELD}_LIMITS.items() if value < top), 'huge')",
    "while {thing}s and {thing}s[0].{field} < {n}:\n    {thing} = {thing}s.popleft()\n    print(f'{{{thing}.{other}}}: done')",
)
JAVASCRIPT: Final = (
    "export function {verb}{Thing}s({thing}s, limit = {n}) {{\n  // {reason}\n"
    "  return {thing}s.filter((x) => x.{field} > limit).map((x) => ({{ ...x, {other}: x.{other} ?? '' }}));\n}}",
    "const {thing}By{Field} = new Map();\nfor (const {thing} of await load('{thing}s')) {{\n"
    "  {thing}By{Field}.set({thing}.{field}, {thing});\n}}",
    "app.get('/{thing}s/{verb}/:{field}', async (req, res) => {{\n  const {thing} = await db.{thing}s.find(req.params.id);\n"
    "  if (!{thing}) return res.status(404).json({{ error: 'no such {thing}' }});\n  res.json({thing});\n}});",
    "class {Thing}View extends Component {{\n  state = {{ {field}: {n}, open: false }};\n\n  render() {{\n"
    "    return <li onClick={{() => this.setState({{ open: true }})}}>{{this.state.{field}}} {other}</li>;\n  }}\n}}",
    "test('{verb} leaves {field} of the {thing} alone', () => {{\n"
    "  expect({verb}({{ {field}: {n} }})).toEqual({{ {field}: {n}, {other}: null }});\n}});",
    "let {field}Timer = null;\nexport function {verb}Later({thing}) {{\n  clearTimeout({field}Timer);\n"
    "  {field}Timer = setTimeout(() => {verb}({thing}), {n});\n}}",
)
GO: Final = (
    "// {Verb}{Thing} {verb}s one {thing}. {reason}\nfunc {Verb}{Thing}(t {Thing}) (int, error) {{\n\tif t.{Field} < {n} {{\n"
    '\t\treturn 0, fmt.Errorf("{thing}: {field} %d too low", t.{Field})\n\t}}\n\treturn t.{Field} * {d}, nil\n}}',
    'type {Thing}{Other} struct {{\n\t{Field} int    `json:"{field}"`\n\t{Other} string `json:"{other}"`\n\t{Third} bool\n}}',
    "func (s *{Thing}Store) {Verb}All(ctx context.Context) error {{\n\ts.mu.Lock()\n\tdefer s.mu.Unlock()\n"
    "\tfor id, t := range s.{thing}s {{\n\t\tif t.{Field} > {n} {{\n\t\t\tdelete(s.{thing}s, id)\n\t\t}}\n\t}}\n"
    "\treturn ctx.Err()\n}}",
    "func Test{Verb}{Thing}(t *testing.T) {{\n\tgot, err := {Verb}{Thing}({Thing}{{{Field}: {m}}})\n"
    "\tif err != nil || got == {n} {{\n"
    '\t\tt.Fatalf("got %d, %v", got, err)\n\t}}\n}}',
)
SQL: Final = (
    "CREATE TABLE {thing}_{field} (\n  id SERIAL PRIMARY KEY,\n  {other} TEXT NOT NULL,\n"
    "  {field} INT CHECK ({field} >= {d}),\n  {third} DATE\n);",
    "SELECT {other}, COUNT(*) AS n, AVG({field}) AS mean_{field}\nFROM {thing}s\nWHERE {third} < {n} -- {reason}\n"
    "GROUP BY {other}\nHAVING COUNT(*) > {d}\nORDER BY n DESC;",
    "UPDATE {thing}s\nSET {field} = {field} + {n}\nWHERE id IN (SELECT {thing}_id FROM {thing}_{other} WHERE {third} IS NULL);",
    "CREATE VIEW recent_{thing}s AS\nSELECT t.*, o.{other}\nFROM {thing}s t\nLEFT JOIN owners o ON o.id = t.owner_id\n"
    "WHERE t.{field} BETWEEN {n} AND {m};",
    "CREATE INDEX {thing}_{field}_{other}_{n} ON {thing}s ({field}, {other});",
)
LANGUAGES: Final = (PYTHON, PYTHON, JAVASCRIPT, GO, SQL)


def _filled(shape: str, random: Random) -> str:
    thing, verb = random.choice(THINGS), random.choice(VERBS)
    field, other, third = random.sample(FIELDS, 3)
    small, large = sorted((random.randint(2, 900), random.randint(901, 9000)))
    given = {"thing": thing, "verb": verb, "field": field, "other": other, "third": third, "reason": random.choice(REASONS)}
    titles = {"Thing": thing, "Verb": verb, "Field": field, "Other": other, "Third": third}
    numbers = {"n": small, "m": large, "d": random.randint(2, 9), "FIELD": field.upper()}
    return shape.format(**given, **{key: word.title() for key, word in titles.items()}, **numbers)


def code_pieces(random: Random) -> Iterator[str]:
    """Functions, classes, tests and queries of one language, without end."""
    shapes = random.choice(LANGUAGES)
    while True:
        for shape in random.sample(shapes, len(shapes)):
            yield _filled(shape, random)
