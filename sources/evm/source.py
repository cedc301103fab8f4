"""The loop of an EVM source: follow the chain, journal an intent, send its events, go on.

The order that survives a kill at any point: the intent of a block is acknowledged by the journal,
then its events by the sink, then the next block begins. A retraction is done likewise. A start
sends the newest intent again before anything else, so a block is never half sent, and no event is
forgotten that the chain may yet take back.

Finalised blocks need no intent: they are never retracted, and a repeat of an event is counted as
nothing. So a long way to the head is read by ranges up to the finalised block, and the journal only
follows what was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import structlog

from aggregator.runtime import faults
from aggregator.runtime.errors import Fatal, Retry
from sources.events import Outgoing
from sources.evm.backfill import ChainBackfill, Slice
from sources.evm.follower import Ask, Read, Retract, TooDeep, Wait
from sources.evm.history import BEGIN, CHAIN, BeginEntry, BlockHistory, entry, newest_seq, restore
from sources.evm.lookahead import Lookahead
from sources.evm.ports import BlockReader, EvmNode, LogFilter, NodeChoice
from sources.evm.ranges import RangeLength
from sources.evm.types import Block, BlockRef, ChainIdentity
from sources.evm.warmup import warm_up
from sources.metrics import SourceMetrics
from sources.ports import SourceJournal, SourceSink

_WORTH_RANGES: Final = 32
"""The number of finalised blocks from which on ranges are faster than one block after the other."""
_LIVE: Final = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class FollowSettings:
    """Which blocks an EVM source reads, and how.

    `from_block` counts back from the head where it is negative; it is where a source begins that
    has no journal. `to_block` is the last block to read: the source then ends. A block is read
    once `confirmations` others follow it. `keep` is how many blocks the chain may take back.
    `senders` says whether the reader needs the senders of transactions. `chain` is the chain that
    the nodes must be of; None takes that of the first one, and keeps to it.
    """

    name: str
    wanted: LogFilter
    chain: ChainIdentity | None = None
    from_block: int | Literal["latest"] = "latest"
    to_block: int | None = None
    confirmations: int = 0
    keep: int = 256
    senders: bool = True


class EvmSource:
    """Sends the events of a chain's blocks, each once, and retracts those that the chain drops."""

    def __init__(
        self,
        settings: FollowSettings,
        *,
        nodes: NodeChoice,
        reader: BlockReader,
        journal: SourceJournal,
        sink: SourceSink,
        metrics: SourceMetrics,
    ) -> None:
        self._settings = settings
        self._nodes = nodes
        self._reader = reader
        self._journal = journal
        self._sink = sink
        self._metrics = metrics
        self._lengths: dict[str, RangeLength] = {}
        self._depth = 0
        self._warm = False

    async def run(self, entries: Mapping[str, bytes]) -> None:
        """Send until `to_block` is sent; without it until the task is cancelled.

        `entries` is what the journal held when this process became its owner. Raises Fatal where
        the source cannot go on without a person, Fenced where another process owns the journal.
        """
        self._metrics.state("starting")
        await self._pin(entries)
        self._history = await self._restored(entries)
        self._check_end()
        while not self._ended:
            node = await self._nodes.choose()
            try:
                if await self._step(node):
                    continue
            except Retry as error:
                self._metrics.state("waiting", str(error))
                self._nodes.failed(node, error)
                continue
            except TooDeep as error:
                raise Fatal(
                    f"source {self._settings.name}: {error}. Events of older blocks may stand that "
                    f"the chain no longer has. Run `manage.py source reset {self._settings.name} "
                    "--from-block N` with a block from before the reorganisation, and set "
                    f"keep_blocks to more than {self._settings.keep}"
                ) from error
            self._nodes.worked(node)
            await self._nodes.news()
        log.info("source_ended", source=self._settings.name, to_block=self._settings.to_block)

    @property
    def _ended(self) -> bool:
        last = self._settings.to_block
        return last is not None and self._history.follower.next_number > last

    def _check_end(self) -> None:
        if self._ended and not self._history.unfinished:
            raise Fatal(
                f"source {self._settings.name} is at block {self._history.follower.next_number} "
                f"already, past --to-block {self._settings.to_block}: give the backfill a name of "
                f"its own, or run `manage.py source reset {self._settings.name} --from-block N`"
            )

    async def _pin(self, entries: Mapping[str, bytes]) -> None:
        """Make sure that the journal and the nodes are of one chain, and remember which."""
        pinned = entry(entries, CHAIN, ChainIdentity)
        configured = self._settings.chain
        if pinned and configured and not pinned.matches(configured):
            raise Fatal(
                f"source {self._settings.name}: its journal is of chain {pinned.chain_id} "
                f"(genesis {pinned.genesis}), and its settings are of chain {configured.chain_id} "
                f"(genesis {configured.genesis}): give the source another name"
            )
        chain = await self._nodes.identify(pinned or configured)
        if pinned is None:
            await self._journal.write({CHAIN: msgspec.json.encode(chain)})

    async def _restored(self, entries: Mapping[str, bytes]) -> BlockHistory:
        """Return where the source is, after the begin that settings or an operator ask for."""
        keep = self._settings.keep
        history = restore(entries, keep=keep)
        wanted = entry(entries, BEGIN, BeginEntry)
        if history is not None and wanted is None:
            at = history.follower.next_number
            log.info("source_resumes", source=self._settings.name, block=at)
            return history
        while True:
            node = await self._nodes.choose()
            try:
                first = await self._first(node, wanted)
                if history is None:
                    history = BlockHistory.empty(first, newest_seq(entries), keep=keep)
                self._history = history
                await self._finish()
                await self._leave(node, first)
            except Retry as error:
                self._metrics.state("waiting", str(error))
                self._nodes.failed(node, error)
                continue
            await self._journal.write(history.move(first, None))
            log.info("source_begins", source=self._settings.name, block=first)
            return history

    async def _first(self, node: EvmNode, wanted: BeginEntry | None) -> int:
        asked = self._settings.from_block if wanted is None else wanted.from_block
        if asked != "latest" and asked >= 0:
            return asked
        head = (await node.head()).number
        return head if asked == "latest" else max(0, head + asked)

    async def _leave(self, node: EvmNode, first: int) -> None:
        """Retract the kept blocks that are not canonical, or that will be read once more."""
        follower = self._history.follower
        while follower.kept:
            newest = follower.kept[-1]
            block = await node.block(newest.number)
            if block is not None and block.hash == newest.hash and newest.number < first:
                return
            await self._retract(newest)

    async def _step(self, node: EvmNode) -> bool:
        """Follow the chain of a node until nothing is certain; return whether there is more now."""
        await self._finish()
        if not self._warm:
            await warm_up(node, self._reader, self._history.follower.next_number)
            self._warm = True
        head = await node.head()
        self._metrics.head(head.number)
        top: Block | None = head
        if self._settings.confirmations:
            number = head.number - self._settings.confirmations
            top = await node.block(number) if number >= 0 else None
        if top is None:
            return False
        async with Lookahead(node, self._nodes, self._settings, top) as ahead:
            return await self._follow(node, top, ahead)

    async def _follow(self, node: EvmNode, top: Block, ahead: Lookahead) -> bool:
        history = self._history
        while not self._ended:
            match history.follower.decide(top.ref, ahead.answers):
                case Ask(number):
                    await ahead.ask(number, history.follower.next_number)
                case Read(block):
                    final = await self._final(node, block.number, top.number)
                    if final is not None:
                        await self._backfill(node, block.number, final)
                        return True
                    await self._add(ahead, block)
                    self._report_state(top)
                case Retract(block):
                    self._depth += 1
                    await self._retract(block)
                case Wait(why):
                    self._report_state(top)
                    log.debug("source_waits", source=self._settings.name, why=why)
                    return False
        return False

    def _report_state(self, top: Block) -> None:
        if self._depth:
            self._metrics.reorganisation(self._depth)
            log.info("source_reorganised", source=self._settings.name, depth=self._depth)
            self._depth = 0
        follower = self._history.follower
        if top.number < follower.first - 1:
            self._metrics.state(
                "waiting",
                f"the RPC endpoint has block {top.number}, and block {follower.next_number - 1} "
                "is sent: it lags, or its chain was begun again",
            )
            return
        lag = top.number - follower.next_number
        self._metrics.state("live" if lag < _LIVE else "catching_up")

    async def _finish(self) -> None:
        """Send the newest intent again where it may be unfinished."""
        if self._history.unfinished:
            await self._sink.send(self._history.unfinished)
            self._metrics.events("repeat", len(self._history.unfinished))
            self._history.unfinished = ()

    async def _add(self, ahead: Lookahead, ref: BlockRef) -> None:
        block, logs = await ahead.read(ref)
        events = await self._reader.read(block, logs)
        faults.point("source_has_block")
        await self._carry_out(self._history.add(ref, events), events)
        self._metrics.events("swap", len(events))
        self._metrics.sent(block.timestamp, block.number)

    async def _retract(self, ref: BlockRef) -> None:
        intent, retractions = self._history.retract(ref)
        await self._carry_out(intent, retractions, retracting=True)
        self._metrics.events("retraction", len(retractions))

    async def _carry_out(
        self,
        intent: Mapping[str, bytes | None],
        events: Sequence[Outgoing],
        *,
        retracting: bool = False,
    ) -> None:
        """Write an intent, then send its events."""
        await self._journal.write(intent)
        faults.point("source_wrote_retraction" if retracting else "source_wrote_intent")
        # From here on the intent stands: whatever fails now, these events are sent first.
        self._history.carried_out(events)
        self._metrics.journal_open(1)
        if events:
            await self._sink.send(events)
        faults.point("source_sent_retractions" if retracting else "source_sent_events")
        self._history.unfinished = ()
        self._metrics.journal_open(0)

    async def _final(self, node: EvmNode, first: int, top: int) -> int | None:
        """Return the block up to which ranges may be read; None where they are not worth it."""
        if top - first < _WORTH_RANGES:
            return None
        final = await node.finalized()
        last = top - self._settings.keep if final is None else min(final.number, top)
        if self._settings.to_block is not None:
            last = min(last, self._settings.to_block)
        return last if last - first >= _WORTH_RANGES else None

    async def _backfill(self, node: EvmNode, first: int, last: int) -> None:
        """Read and send finalised blocks; one slice is sent while the next one is read."""
        self._metrics.state("catching_up")
        length = self._lengths.setdefault(node.name, RangeLength())
        settings = self._settings
        backfill = ChainBackfill(node, settings.wanted, senders=settings.senders, length=length)
        sending: asyncio.Task[None] | None = None
        try:
            async with aclosing(backfill.slices(first, last)) as slices:
                async for part in slices:
                    self._metrics.range_blocks(length.blocks)
                    events = await self._reader.read_final(part.found)
                    self._nodes.worked(node)
                    if sending is not None:
                        await sending
                    sending = asyncio.create_task(self._send_final(part, events))
        except Retry:
            if sending is not None:
                await sending
            raise
        except BaseException:
            if sending is not None:
                sending.cancel()
            raise
        if sending is not None:
            await sending

    async def _send_final(self, part: Slice, events: Sequence[Outgoing]) -> None:
        if events:
            await self._sink.send(events)
        self._metrics.events("swap", len(events))
        await self._journal.write(self._history.move(part.last.number + 1, part.last.hash))
        self._metrics.sent(part.last.timestamp, part.last.number)
