"""The answer grammar in Lark syntax over token ids, for llguidance (vLLM's structured outputs)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from molmoact_ros.reasoning.grammar import AnswerGrammar

Ids = tuple[int, ...]


def lark(grammar: AnswerGrammar, beginning: Sequence[int] = ()) -> str:
    """A Lark grammar of exactly the answers that start with `beginning`, without the end token.

    It consists of token ids only, so that it allows only the tokenizer's own spelling. Raises RefusedStep for a
    beginning that the grammar does not allow.
    """
    state = grammar.start
    for token in beginning:
        state = grammar.advance(state, token)
    return _Writer(grammar).write(list(beginning), grammar.members(state))


class _Writer:
    """Writes one rule for each state where paths merge or branch; repeated sets of values get rules of their own."""

    def __init__(self, grammar: AnswerGrammar) -> None:
        self._builder, self._finish = grammar.builder, grammar.finish
        self._rules: dict[int, str] = {}
        self._shared: dict[str, str] = {}

    def write(self, beginning: Sequence[int], states: Iterable[int]) -> str:
        """The grammar's text."""
        # `states` is closed under epsilon transitions already.
        ways = [way for state in sorted(states) for way in self._ways(state) if way[0] or way[1] == self._finish]
        start = self._alternatives(ways)
        waiting = [joint for _, joint in ways]
        while waiting:
            state = waiting.pop()
            if state not in self._rules and state != self._finish:
                ways = self._ways(state)
                self._rules[state] = self._alternatives(ways)
                waiting += [joint for _, joint in ways]
        lines = [f"start: {_sequence(tuple(beginning))} ({start})" if beginning else f"start: {start}"]
        lines += [f"s{state}: {text}" for state, text in sorted(self._rules.items())]
        return "\n".join([*lines, *(f"{name}: {text}" for text, name in self._shared.items())]) + "\n"

    def _ways(self, state: int) -> list[tuple[Ids, int]]:
        """The outgoing paths of a state: their ids up to the next state that branches or has epsilon transitions."""
        if state == self._finish:
            return [((), state)]
        ways: list[tuple[Ids, int]] = [((), target) for target in self._builder.silent.get(state, ())]
        for token, target in self._builder.moves[state]:
            ids = [token]
            while (
                target != self._finish and target not in self._builder.silent and len(self._builder.moves[target]) == 1
            ):
                ((token, target),) = self._builder.moves[target]
                ids.append(token)
            ways.append((tuple(ids), target))
        return ways

    def _alternatives(self, ways: Sequence[tuple[Ids, int]]) -> str:
        """The paths as alternatives, grouped by target state."""
        targets: dict[int, list[Ids]] = {}
        for ids, target in ways:
            targets.setdefault(target, []).append(ids)
        texts = []
        for target, spellings in targets.items():
            last = "" if target == self._finish else f"s{target}"
            texts.append(" ".join(filter(None, (self._values(spellings), last))) or '""')
        return " | ".join(texts)

    def _values(self, spellings: Sequence[Ids]) -> str:
        """One of several spellings, with their common suffix written once."""
        common = 0
        while (
            len(spellings) > 1
            and common < min(map(len, spellings)) - 1
            and len({s[-1 - common] for s in spellings}) == 1
        ):
            common += 1
        cut = [ids[: len(ids) - common] for ids in spellings]
        end = _sequence(spellings[0][len(spellings[0]) - common :])
        text = _tree(frozenset(cut))
        if "|" in text:
            text = self._shared.setdefault(text, f"v{len(self._shared)}")
        return f"{text} {end}".strip()


def _tree(spellings: frozenset[Ids]) -> str:
    """One of several spellings as a prefix tree; first tokens with equal subtrees form one set."""
    rests: dict[int, set[Ids]] = {}
    for ids in spellings:
        if ids:
            rests.setdefault(ids[0], set()).add(ids[1:])
    firsts: dict[frozenset[Ids], list[int]] = {}
    for first, rest in sorted(rests.items()):
        firsts.setdefault(frozenset(rest), []).append(first)
    texts = []
    for following, tokens in firsts.items():
        text = _tree(following)
        text = f"({text})?" if () in following and text else f"({text})" if "|" in text else text
        texts.append(f"{_token(tokens)} {text}".strip())
    return " | ".join(texts)


def _sequence(ids: Ids) -> str:
    return " ".join(f"<[{token}]>" for token in ids)


def _token(ids: Sequence[int]) -> str:
    """One of several tokens, with consecutive ids as ranges."""
    ranges: list[list[int]] = []
    for token in ids:
        if ranges and token == ranges[-1][1] + 1:
            ranges[-1][1] = token
        else:
            ranges.append([token, token])
    return f"<[{','.join(str(a) if a == b else f'{a}-{b}' for a, b in ranges)}]>"
