"""What is made for one look or download doesn't fill the disk."""

from app.passing import Passing


def test_the_oldest_files_go_and_what_is_asked_for_again_stays(tmp_path):
    passing = Passing(tmp_path / "cache", most=250)
    files = [passing.new("grid.png") for _ in range(4)]
    for file in files[:2]:
        file.write_bytes(b"x" * 100)
        assert passing.keep(file) == str(file)
    passing.keep(files[0])
    files[2].write_bytes(b"x" * 100)
    passing.keep(files[2])
    assert [file.exists() for file in files[:3]] == [True, False, True] and not files[1].parent.exists()
    files[3].write_bytes(b"x" * 900)  # one alone may have more
    passing.keep(files[3])
    assert [file.exists() for file in files] == [False, False, False, True]
