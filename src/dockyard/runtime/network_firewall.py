"""Other people's firewalls: what must be said in them so that containers are heard.

Owns: finding forward chains that drop by default (iptables-legacy, iptables-nft, any nftables base chain, firewalld),
adding tagged accepts for our bridges there, taking them away again. Does not own: our own rules.

An accept in our table does not undo a drop in another: each base chain on the hook has its say. So where a chain drops
what nobody mentioned, two rules mention our bridges. They stand at the chain's end (before a closing drop of
everything), so that all that an administrator or another engine forbids before stays forbidden: only the default
changes. Towards containers they let in no more than our own rules do: answers and published ports.

Runs in a worker, never in the daemon: it executes helper programs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from dockyard.linux.nftables import Nft

TAG = "dockyard"
_TIMEOUT = 20  # seconds for a helper program; iptables waits for its lock meanwhile
_LEGACY_TABLES = "/proc/thread-self/net/ip_tables_names"
_TABLE = re.compile(r"^table (\S+) (\S+) \{")
_CHAIN = re.compile(r"^\tchain (\S+) \{")
_HOOK = re.compile(r"type filter hook forward .*policy (\w+);")
_CLOSING = re.compile(r"^(counter( packets \d+ bytes \d+)? )?(drop|reject( .*)?)$")
_CLOSING_IPTABLES = re.compile(r"-A FORWARD -j (DROP|REJECT( .*)?)$")
_HANDLE = re.compile(r" # handle (\d+)$")


class Note(TypedDict):
    """What stands in whose firewall. `place` is stable text ("nft ip filter FORWARD"), `text` is for people."""

    place: str
    text: str


class _BaseChain(NamedTuple):
    family: str
    table: str
    chain: str
    drops: bool


def accept(own_tables: Sequence[str], bridges: Sequence[str]) -> list[Note]:
    """Bring other firewalls up to date for our bridges; notes about those that needed it or could not be changed."""
    notes = _firewalld(bridges, add=True)
    for program in _iptables_programs():
        notes += _iptables(program, bridges)
    with Nft() as nft:
        for chain in _forward_chains(nft, own_tables):
            notes += _native(nft, chain, bridges)
    return notes


def withdraw(own_tables: Sequence[str], bridges: Sequence[str]) -> None:
    """Take away every rule of ours for these bridges."""
    _firewalld(bridges, add=False)
    for program in _iptables_programs():
        for bridge in bridges:
            for rule in _tagged(_save(program), bridge):
                _run(program, "-D", *_words(rule)[1:])
    with Nft() as nft:
        for chain in _forward_chains(nft, own_tables):
            for bridge in bridges:
                _native_remove(nft, chain, bridge)


# --- iptables, both kinds --------------------------------------------------------------------------------------------


def _iptables_programs() -> list[str]:
    """iptables programs whose filter table exists. Asking the legacy one otherwise would make it exist."""
    found = []
    try:
        with open(_LEGACY_TABLES) as tables:
            legacy = "filter" in tables.read().split()
    except OSError:
        legacy = False
    if legacy and (program := shutil.which("iptables-legacy", path=_path())):
        found.append(program)
    with Nft() as nft:
        chains = _forward_chains(nft, [])
    if any(_is_iptables(chain) for chain in chains) and (program := shutil.which("iptables-nft", path=_path())):
        found.append(program)
    return found


def _is_iptables(chain: _BaseChain) -> bool:
    return (chain.family, chain.table, chain.chain) == ("ip", "filter", "FORWARD")


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"


def _iptables(program: str, bridges: Sequence[str]) -> list[Note]:
    place = os.path.basename(program)
    notes: list[Note] = []
    for bridge in bridges:
        rules = _save(program)
        closing = _closing_position(rules)
        present = _tagged(rules, bridge)
        wanted = _iptables_rules(bridge) if closing or _policy_drops(rules) else []
        # Rules that stand behind a closing drop never speak: they are put anew.
        in_place = not closing or all(rules.index(rule) < closing for rule in present)
        if len(present) == len(wanted) and in_place:
            if wanted:
                notes.append(_note(f"{place} FORWARD", bridge))
            continue
        for rule in present:
            _run(program, "-D", *_words(rule)[1:])
        position = _closing_position([rule for rule in rules if rule not in present])
        for words in wanted:
            _run(program, *(["-I", "FORWARD", str(position)] if position else ["-A", "FORWARD"]), *words)
            position += 1 if position else 0
        if wanted:
            notes.append(_note(f"{place} FORWARD", bridge))
    return notes


def _save(program: str) -> list[str]:
    """`-S FORWARD`: the policy, then the rules."""
    return _run(program, "-S", "FORWARD").splitlines()


def _policy_drops(rules: Sequence[str]) -> bool:
    return bool(rules) and rules[0].split() == ["-P", "FORWARD", "DROP"]


def _closing_position(rules: Sequence[str]) -> int:
    """The number of the first rule that drops everything (rules[0] is the policy, so numbers begin at 1); 0: none."""
    return next((number for number, rule in enumerate(rules) if _CLOSING_IPTABLES.match(rule)), 0)


def _iptables_rules(bridge: str) -> list[list[str]]:
    tag = ["-m", "comment", "--comment", f"{TAG}:{bridge}", "-j", "ACCEPT"]
    return [
        ["-i", bridge, *tag],
        ["-o", bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT", *tag],
    ]


def _tagged(rules: Sequence[str], bridge: str) -> list[str]:
    pattern = re.compile(rf'--comment "?{re.escape(f"{TAG}:{bridge}")}"?( |$)')
    return [rule for rule in rules if pattern.search(rule)]


def _words(rule: str) -> list[str]:
    return [word.strip('"') for word in rule.split()]


def _run(program: str, *arguments: str) -> str:
    """OSError with what the program said."""
    wait = ["-w", "10"] if os.path.basename(program).startswith("iptables") else []
    done = subprocess.run(
        [program, *wait, *arguments],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise OSError(f"{os.path.basename(program)} {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


# --- nftables --------------------------------------------------------------------------------------------------------


def _forward_chains(nft: Nft, own_tables: Sequence[str]) -> list[_BaseChain]:
    """Base chains of type filter on the forward hook that IPv4 packets pass, but for ours and firewalld's."""
    found: list[_BaseChain] = []
    skipped = {*own_tables, "firewalld"}
    family = table = chain = ""
    for line in nft.run("list chains").splitlines():
        if match := _TABLE.match(line):
            family, table = match.groups()
        elif match := _CHAIN.match(line):
            chain = match[1]
        elif (match := _HOOK.search(line)) and family in ("ip", "inet") and table not in skipped:
            found.append(_BaseChain(family, table, chain, match[1] == "drop"))
    return found


def _native(nft: Nft, chain: _BaseChain, bridges: Sequence[str]) -> list[Note]:
    if _is_iptables(chain) and shutil.which("iptables-nft", path=_path()):
        return []  # done in its own words
    notes = []
    place = f"nft {chain.family} {chain.table} {chain.chain}"
    for bridge in bridges:
        try:
            if _native_bridge(nft, chain, bridge):
                notes.append(_note(place, bridge))
        except OSError as error:
            notes.append(Note(place=place, text=f"{place} drops forwarded packets and cannot be changed: {error}"))
    return notes


def _native_bridge(nft: Nft, chain: _BaseChain, bridge: str) -> bool:
    where = f"{chain.family} {chain.table} {chain.chain}"
    rules = _native_rules(nft, chain)
    foreign = [rule for rule in rules if not _has_tag(rule[0], bridge)]
    closing = foreign[-1] if foreign and _CLOSING.match(foreign[-1][0]) else None
    present = [rule for rule in rules if _has_tag(rule[0], bridge)]
    wanted = _native_texts(bridge) if chain.drops or closing else []
    in_place = closing is None or all(rules.index(rule) < rules.index(closing) for rule in present)
    if len(present) != len(wanted) or not in_place:
        lines = [f"delete rule {where} handle {handle}" for _, handle in present]
        before = f" handle {closing[1]}" if closing else ""
        verb = "insert" if closing else "add"
        lines += [f"{verb} rule {where}{before} {text}" for text in wanted]
        nft.run("\n".join(lines) + "\n")
    return bool(wanted)


def _native_remove(nft: Nft, chain: _BaseChain, bridge: str) -> None:
    where = f"{chain.family} {chain.table} {chain.chain}"
    for rule, handle in _native_rules(nft, chain):
        if _has_tag(rule, bridge):
            nft.run(f"delete rule {where} handle {handle}\n")


def _native_texts(bridge: str) -> list[str]:
    tag = f'accept comment "{TAG}:{bridge}"'
    return [
        f'iifname "{bridge}" {tag}',
        f'oifname "{bridge}" ct state established,related {tag}',
        f'oifname "{bridge}" ct status dnat {tag}',
    ]


def _native_rules(nft: Nft, chain: _BaseChain) -> list[tuple[str, int]]:
    """(rule, handle) of a chain."""
    found = []
    for line in nft.run(f"list chain {chain.family} {chain.table} {chain.chain}", handles=True).splitlines():
        if line.startswith("\t\t") and (match := _HANDLE.search(line)):
            found.append((line[: match.start()].strip(), int(match[1])))
    return found


def _has_tag(rule: str, bridge: str) -> bool:
    return f'comment "{TAG}:{bridge}"' in rule


# --- firewalld -------------------------------------------------------------------------------------------------------


def _firewalld(bridges: Sequence[str], *, add: bool) -> list[Note]:
    """firewalld makes its rules anew at every reload: a bridge is put into its zone `trusted`, for good."""
    program = shutil.which("firewall-cmd", path=_path())
    if program is None or not os.path.isdir("/run/firewalld"):
        return []
    notes = []
    try:
        if _run(program, "--state").strip() != "running":
            return []
        for bridge in bridges:
            _firewalld_zone(program, bridge, add)
            notes.append(Note(place="firewalld", text=f"firewalld: {bridge} is in the zone trusted"))
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Note(place="firewalld", text=f"firewalld could not be told about our bridges: {error}")] if add else []
    return notes if add else []


def _firewalld_zone(program: str, bridge: str, add: bool) -> None:
    for scope in ([], ["--permanent"]):
        try:
            _run(program, *scope, "--zone=trusted", f"--query-interface={bridge}")
            present = True
        except OSError:
            present = False
        if add and not present:
            _run(program, *scope, "--zone=trusted", f"--change-interface={bridge}")
        elif present and not add:
            _run(program, *scope, "--zone=trusted", f"--remove-interface={bridge}")


def _note(place: str, bridge: str) -> Note:
    return Note(place=place, text=f"{place} drops forwarded packets by default: accepts for {bridge} are in it")
