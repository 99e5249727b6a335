import pytest

from stillbit.errors import RecipeError
from stillbit.training.timetable import FinalStage, Timetable


def test_epochs_add_up() -> None:
    timetable = Timetable(300, 10, FinalStage(epochs=30, lr=1e-5))
    assert (timetable.before_final_stage, timetable.total) == (310, 340)
    assert Timetable(90).before_final_stage == Timetable(90).total == 90


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0,), "epochs is 0; allowed: 1 or more, 0 only where an annealing stage follows"),
        ((0, 3, FinalStage(epochs=1, lr=0.1)), "cooldown_epochs is 3 with epochs 0; allowed: 0"),
    ],
    ids=["nothing", "cooldown-of-nothing"],
)
def test_a_run_without_its_first_epoch_is_refused(given: tuple[int, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Timetable(*given)
