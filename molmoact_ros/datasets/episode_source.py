"""The one reader of episodes: from bags, ours and others', and from LeRobot datasets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from molmoact_ros.bags.recording import Recording, TopicNames
from molmoact_ros.datasets.collection import Outcome
from molmoact_ros.datasets.episode import DamagedEpisode, Demonstration
from molmoact_ros.datasets.episode_record import SESSION, EpisodeRecord, session_bags
from molmoact_ros.datasets.from_bag import of_bag
from molmoact_ros.datasets.hand_source import HandSource
from molmoact_ros.datasets.lerobot_reader import Dataset
from molmoact_ros.datasets.mapping_options import MappingOptions
from molmoact_ros.utils.paths import robot_model


@dataclass(frozen=True)
class SourceOptions:
    """How episodes are read.

    names: topics of bags. fps: frames per second of bags. task: instruction where an episode does not say it. hand:
    where the gripper's opening is in bags. mapping: of datasets.
    """

    names: TopicNames = field(default_factory=TopicNames)
    fps: float = 10.0
    task: str = ""
    hand: HandSource = field(default_factory=HandSource)
    mapping: MappingOptions = field(default_factory=MappingOptions)


class EpisodeSource:
    """Iterates over the episodes of bags and datasets, each open until the next one is asked for.

    left_out: why an episode could not be read, by its name. Where none can be read, iterating raises ValueError with
    the first reason.

        for demonstration in EpisodeSource([Path("bag"), Path("dataset")], SourceOptions(fps=15)):
            print(demonstration.name, demonstration.states.shape)
    """

    def __init__(self, paths: Sequence[Path], options: SourceOptions) -> None:
        """paths: bags, folders of sessions (of `collect`), and folders of datasets.

        Raises FileNotFoundError, naming a missing one.
        """
        if missing := [path for path in paths if not path.exists()]:
            raise FileNotFoundError(f"there is no {missing[0]}; give bags, or folders of LeRobot datasets")
        self._paths, self._options = paths, options
        self.left_out: dict[str, str] = {}

    def __iter__(self) -> Iterator[Demonstration]:
        count = 0
        for path in self._paths:
            for bag in bags_in(path):
                for demonstration in self._dataset(bag) if is_dataset(bag) else self._bag(bag):
                    yield demonstration
                    count += 1
        if not count and self.left_out:
            name, reason = next(iter(self.left_out.items()))
            raise ValueError(f"{name}: {reason}" if len(self.left_out) > 1 else reason)

    def _bag(self, path: Path) -> Iterator[Demonstration]:
        options = self._options
        try:
            recording = Recording(path, options.names)
        except ValueError as error:
            self.left_out[str(path)] = str(error)
            return
        with recording:
            try:
                record = EpisodeRecord.read(path)
                if record is not None and record.outcome not in (Outcome.KEPT, Outcome.FAILED):
                    raise ValueError(f"it is {record.outcome.value}; review it first, by molmoact-ros collect")
                found = of_bag(recording, robot_model(), options.fps, options.task, options.hand, record)
            except ValueError as error:
                self.left_out[str(path)] = str(error)
                return
            yield found

    def _dataset(self, path: Path) -> Iterator[Demonstration]:
        dataset = Dataset.open(path)
        mapping = dataset.mapping(self._options.mapping)
        for number in dataset.episodes:
            try:
                found = dataset.episode(number, mapping)
            except DamagedEpisode as error:
                self.left_out[f"episode {number} of {path}"] = str(error)
                continue
            found.tasks = [task or self._options.task for task in found.tasks]
            yield found


def bags_in(path: Path) -> list[Path]:
    """The episodes' bags of a session's folder; of another path, the path itself."""
    return session_bags(path) if (path / SESSION).is_file() else [path]


def is_dataset(path: Path) -> bool:
    """Whether a folder is that of a LeRobot dataset."""
    return (path / "meta" / "info.json").is_file()
