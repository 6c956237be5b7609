"""A page, in one file, on which a person clicks where the gripper is in a few frames of each episode."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Final

import numpy as np

from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.labelling.tracking import short_name
from molmoact_ros.visualization.overlay import jpeg

QUALITY: Final = 90
_HEAD: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Where is the gripper?</title><style>
body{font:14px/1.4 system-ui,sans-serif;margin:2rem;color:#222}figure{display:inline-block;position:relative;margin:4px}
img{display:block;cursor:crosshair}i{position:absolute;width:12px;height:12px;margin:-7px;border:1px solid #000;
border-radius:50%;background:#0ffa;pointer-events:none}header{position:sticky;top:0;background:#fff;padding:.5rem 0}
</style></head><body><header>Click the point between the finger tips in each image; a second click moves it, a click
with the right button removes it. Where the gripper cannot be seen, leave it. <button>Save clicks.json</button>
<output></output>
</header>
"""
_SCRIPT: Final = """<script>
const figures = [...document.querySelectorAll("figure")];
function count() {
  document.querySelector("output").value = `${figures.filter(f => f.point).length} of ${figures.length} clicked`;
}
for (const figure of figures) {
  const image = figure.querySelector("img");
  image.onclick = event => {
    const mark = figure.querySelector("i") || figure.appendChild(document.createElement("i"));
    mark.style.left = `${event.offsetX}px`;
    mark.style.top = `${event.offsetY}px`;
    figure.point = [event.offsetX * image.naturalWidth / image.clientWidth,
                    event.offsetY * image.naturalHeight / image.clientHeight];
    count();
  };
  image.oncontextmenu = event => {
    event.preventDefault();
    figure.querySelector("i")?.remove();
    delete figure.point;
    count();
  };
}
document.querySelector("button").onclick = () => {
  const clicks = {};
  for (const {point, dataset} of figures.filter(f => f.point)) {
    (clicks[dataset.episode] ||= []).push({frame: Number(dataset.frame), point});
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(clicks, null, 1)], {type: "application/json"}));
  link.download = "clicks.json";
  link.click();
};
count();
</script></body></html>
"""


def click_page(episodes: Iterable[Demonstration], parts: Mapping[str, slice], count: int) -> Iterator[str]:
    """The page as HTML, piece by piece; the episodes' images are in it.

    parts: the frames of each episode to choose from, by name. count: of frames of each episode, evenly spaced.
    """
    same = Counter(map(short_name, parts))
    yield _HEAD
    for found in episodes:
        if (part := parts.get(found.name)) is None:
            continue
        name = short_name(found.name) if same[short_name(found.name)] == 1 else found.name
        wanted = set(np.linspace(part.start, part.stop - 1, count).round().astype(int).tolist())
        yield f"<h2>{escape(name)}</h2><p>{escape(found.tasks[part.start])}</p>\n"
        for k, image in enumerate(next(iter(found.pictures.values()))()):
            if k in wanted:
                yield _figure(name, k, image)
    yield _SCRIPT


def _figure(episode: str, frame: int, image: np.ndarray) -> str:
    data = base64.b64encode(jpeg(image, QUALITY)).decode()
    return (
        f'<figure data-episode="{escape(episode)}" data-frame="{frame}">'
        f'<img alt="frame {frame}" src="data:image/jpeg;base64,{data}"></figure>\n'
    )
