"""Events from a Kafka topic, as a member of a consumer group.

A partition's offsets go to the store with the events, so that none is applied twice, and are committed
only after the events are stored. The position is also remembered in the store: if that lost what it had
acknowledged (a power cut), its position is behind the group's, and the partition is read again from there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys.errors import ConfigError, InvalidInputError
from recsys.ingest.kafka_options import without_secrets
from recsys.ingest.source import Pace, RawBatch, Refusal
from recsys.rows.contract import RowContract
from recsys.rows.text import parse_json

_CONNECT_S = 20.0
_MAX_BYTES = 1 << 20

_log = logging.getLogger(__name__)


class KafkaSource:
    """One topic.

    Args:
        topic: its name; an event is a message whose value is a JSON object.
        contract: of an event.
        brokers: ``host:port,host:port``.
        group: of consumers.
        options: librdkafka's, for example ``security.protocol``.
        pace: of batches; ``flush_s`` counts from the last one.
    """

    def __init__(
        self,
        topic: str,
        contract: RowContract,
        *,
        brokers: str,
        group: str,
        options: Mapping[str, str],
        pace: Pace,
    ) -> None:
        self.name = f"kafka:{topic}"
        self._topic = topic
        self._contract = contract
        self._brokers = brokers
        self._options = {
            "auto.offset.reset": "earliest",
            **options,
            "bootstrap.servers": brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": not pace.follow,
        }
        self._pace = pace
        self._consumer: Any = None
        self._positions: Mapping[str, str] = {}
        self._assigned: set[int] | None = None
        self._at_end: set[int] = set()
        self._next_offset: dict[int, int] = {}
        self._unapplied: dict[int, int] = {}
        self._waiting: deque[RawBatch] = deque()

    async def start(self, positions: Mapping[str, str]) -> None:
        """As the protocol says.

        Raises:
            ConfigError: confluent-kafka is not installed, an option is unknown, or no broker answers.
        """
        self._positions = positions
        await asyncio.to_thread(self._start)

    async def read(self) -> RawBatch | None:
        """As the protocol says; one partition's events."""
        if not self._waiting and not await asyncio.to_thread(self._consume):
            return None
        if self._waiting:
            return self._waiting.popleft()
        return self._batch(0, [])

    async def applied(self, batch: RawBatch) -> None:
        """Commit the offset."""
        if batch.token is None:
            return
        from confluent_kafka import KafkaException, TopicPartition

        partition, following = batch.token
        self._unapplied[partition] = following
        try:
            self._consumer.commit(offsets=[TopicPartition(self._topic, partition, following)], asynchronous=True)
        except KafkaException as error:
            # The partition is another member's by now: what it reads again is not applied again.
            _log.warning("%s/%d: offset %d was not committed: %s", self.name, partition, following, error)

    def behind(self) -> int | None:
        """Messages in the assigned partitions that were not read yet."""
        from confluent_kafka import KafkaException, TopicPartition

        behind = 0
        for partition, following in list(self._next_offset.items()):
            try:
                _, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            except (KafkaException, RuntimeError):
                return None
            behind += max(0, high - following)
        return behind

    def left(self) -> str | None:
        """Nothing: every event is whole."""
        return None

    async def close(self) -> None:
        """Leave the group."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await asyncio.to_thread(self._leave, consumer)

    def _leave(self, consumer: Any) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        offsets = [TopicPartition(self._topic, p, o) for p, o in self._unapplied.items() if p in (self._assigned or ())]
        try:
            if offsets:
                consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            _log.warning("%s: the last offsets were not committed: %s", self.name, error)
        consumer.close()

    def _start(self) -> None:
        try:
            from confluent_kafka import Consumer, KafkaException, TopicPartition
        except ImportError:
            raise ConfigError("confluent-kafka is not installed: pip install 'recsys[kafka]'") from None
        if self._consumer is not None:
            # The store was away: again from what it holds.
            self._waiting.clear()
            for partition, unapplied in self._unapplied.items():
                begin = min(unapplied, self._remembered(partition, unapplied))
                self._consumer.seek(TopicPartition(self._topic, partition, begin))
                self._next_offset[partition] = self._unapplied[partition] = begin
            self._at_end.clear()
            return
        try:
            consumer = Consumer(self._options)
            found = consumer.list_topics(self._topic, timeout=_CONNECT_S).topics[self._topic]
        except (KafkaException, TypeError, ValueError) as error:
            reason = without_secrets(str(error), self._options)
            raise ConfigError(f"Kafka at {self._brokers}: {reason}; check --brokers and --kafka-option") from None
        if found.error is not None:
            consumer.close()
            raise ConfigError(f"Kafka at {self._brokers}: topic {self._topic!r}: {found.error.str()}")
        self._consumer = consumer
        consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke)

    def _remembered(self, partition: int, otherwise: int) -> int:
        position = self._positions.get(f"{self.name}/{partition}", "")
        return int(position) if position.isdecimal() else otherwise

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        for found in consumer.committed(partitions, timeout=_CONNECT_S):
            remembered = self._remembered(found.partition, found.offset)
            if 0 <= remembered < found.offset:
                _log.warning(
                    "%s/%d: the store holds events up to offset %d, the group has committed %d: read again from there",
                    self.name,
                    found.partition,
                    remembered,
                    found.offset,
                )
                next(p for p in partitions if p.partition == found.partition).offset = remembered
        # Later on another member may have gone further than what is known here.
        self._positions = {}
        self._assigned = {p.partition for p in partitions}
        consumer.assign(partitions)

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        for revoked in partitions:
            for known in (self._next_offset, self._unapplied):
                known.pop(revoked.partition, None)
            self._at_end.discard(revoked.partition)
        self._assigned = None

    def _consume(self) -> bool:
        """Fill ``_waiting``; False at the end of the topic."""
        from confluent_kafka import KafkaError

        messages: dict[int, list[Any]] = {}
        for message in self._consumer.consume(num_messages=self._pace.flush_events, timeout=self._pace.flush_s):
            error = message.error()
            if error is None:
                messages.setdefault(message.partition(), []).append(message)
                self._at_end.discard(message.partition())
            elif error.code() == KafkaError._PARTITION_EOF:
                self._at_end.add(message.partition())
            elif error.fatal() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise ConfigError(f"Kafka at {self._brokers}: topic {self._topic!r}: {error.str()}")
            else:
                _log.warning("%s: %s", self.name, without_secrets(error.str(), self._options))
        self._waiting.extend(self._batch(partition, found) for partition, found in messages.items())
        return bool(messages) or self._assigned is None or not self._assigned <= self._at_end

    def _batch(self, partition: int, messages: list[Any]) -> RawBatch:
        events: list[dict[str, Any]] = []
        offsets: list[int] = []
        refused: list[Refusal] = []
        source = f"{self.name}/{partition}"
        for message in messages:
            value = message.value() or b""
            try:
                if len(value) > _MAX_BYTES:
                    raise InvalidInputError(f"the message is longer than {_MAX_BYTES:,} bytes")
                event = parse_json(value)
                self._contract.check_names(event)
            except InvalidInputError as error:
                refused.append(Refusal(error, message.offset(), value[:_MAX_BYTES].decode(errors="replace")))
                continue
            events.append(event)
            offsets.append(message.offset())
        if messages:
            self._next_offset[partition] = messages[-1].offset() + 1
            self._unapplied.setdefault(partition, messages[0].offset())
        return RawBatch(
            source=source,
            contract=self._contract,
            columns=self._contract.raw_columns(events),
            length=len(events),
            read_ms=time.time_ns() // 1_000_000,
            locate=lambda index: (offsets[index], events[index]),
            refused=refused,
            offsets=np.array(offsets, dtype=np.int64),
            position=str(self._next_offset[partition]) if messages else "",
            token=(partition, self._next_offset[partition]) if messages else None,
        )
