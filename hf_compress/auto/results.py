"""What a search leaves beside the winner: its points for the report, and a recipe for each of the front."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hf_compress.auto.deciding import Decision
from hf_compress.auto.judging import BRIEF, Point
from hf_compress.auto.request import Request
from hf_compress.auto.space import Options

FRONT = "front"


def facts(
    request: Request,
    options: Options,
    decision: Decision,
    points: list[Point],
    front: list[Point],
    winner: Point,
    failed: dict[str, str],
) -> dict[str, Any]:
    """Return the report's `search`: see `docs/report.md`."""
    return {
        "request": request.facts,
        "options": asdict(options),
        "metric": decision.metric.name,
        "points": [
            {
                "name": name_of(place),
                "what": str(point),
                "trained": point.trained,
                "brief": point.kind == BRIEF,
                "int8": point.choice.int8,
                "quality": point.quality,
                "lost": decision.lost(point),
                **point.costs,
                **({"teacher_ms": point.teacher_ms} if point.teacher_ms else {}),
                "front": any(point is each for each in front),
                "winner": point is winner,
            }
            for place, point in enumerate(points)
        ],
        "failed": failed,
        "prediction": decision.prediction.facts(),
        "prediction_of_students": decision.of_students.facts(),
    }


def recipes(points: list[Point], front: list[Point]) -> dict[str, str]:
    """Return the recipe of each point of the front as YAML, by the path of its file."""
    places = [place for place, point in enumerate(points) if any(point is each for each in front)]
    return {f"{FRONT}/{name_of(place)}.yaml": points[place].recipe.to_yaml() for place in places}


def name_of(place: int) -> str:
    """Return the name of a point in figures and files."""
    return f"{place:02}"
