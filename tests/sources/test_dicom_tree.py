"""Finding series in a tree, and what files still say about a person."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from lesionlab.sources.dicom import _profile, _tree, find_series, identity, write_series

SECRET = "ZZSECRETZZ"  # noqa: S105 - stands for a name that must not be shown


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three series: one alone in a folder, two mixed in another, one of them also elsewhere."""
    for name, uid, n in (("p1/a", "1.1", 3), ("p2/b", "1.2", 4), ("p2/c", "1.3", 2)):
        write_series(
            np.zeros((n, 4, 5)),
            tmp_path / "root" / name,
            spacing=(2, 0.5, 0.6),
            patient_id=name[:2],
            series_uid=uid,
            study_uid="1.9",
        )
    root = tmp_path / "root"
    for file in sorted((root / "p2/c").iterdir()):
        shutil.copy(file, root / "p2/b" / f"c-{file.name}")
    return root


def test_series_of_a_tree(tree: Path) -> None:
    (tree / "p1/a/notes.txt").write_text("x", encoding="utf-8")
    (tree / ".hidden").mkdir()
    shutil.copy(tree / "p1/a/slice-0000.dcm", tree / ".hidden/x.dcm")
    (tree / "p1/a/broken.dcm").write_bytes(b"broken" * 100)
    table = find_series(tree, progress=False)
    assert table[["series_uid", "patient", "n_files", "n_folders", "path"]].values.tolist() == [
        ["1.1", "p1", 3, 1, "p1/a"],
        ["1.3", "p2", 4, 2, "p2"],
        ["1.2", "p2", 4, 1, "p2/b"],
    ]
    first = table.iloc[0]
    assert (first["modality"], first["study_uid"], first["rows"], first["columns"]) == (
        "CT", "1.9", 4, 5,
    )  # fmt: skip
    assert (first["slice_thickness"], first["pixel_spacing"]) == (2, 0.5)
    assert table["synthetic"].all()
    ((path, reason),) = table.attrs["excluded"]
    assert path.endswith("broken.dcm")
    assert "not a DICOM file" in reason


def test_two_processes_find_the_same(tree: Path) -> None:
    one, two = (find_series(tree, progress=False, processes=n) for n in (1, 2))
    assert one.equals(two)


def test_a_quick_look_reads_two_files_of_a_folder(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    header = _tree._header

    def counted(path: Path) -> dict[str, object]:
        read.append(path.relative_to(tree).as_posix())
        return header(path)

    monkeypatch.setattr(_tree, "_header", counted)
    found, bad = _tree.locate_series(tree, progress=False, processes=1, thorough=False)
    assert bad == []
    assert {uid: place.n_files for uid, place in found.items()} == {"1.1": 3, "1.2": 4, "1.3": 4}
    # of the mixed folder, whose ends differ, every file
    assert [f for f in read if f.startswith("p1/a")] == [
        "p1/a/slice-0000.dcm",
        "p1/a/slice-0002.dcm",
    ]
    assert {f for f in read if f.startswith("p2/b")} == {
        f"p2/b/{f.name}" for f in (tree / "p2/b").iterdir()
    }


def test_headers_that_say_little(tree: Path) -> None:
    for file in (tree / "p1/a").iterdir():
        one = pydicom.dcmread(file)
        for keyword in ("PatientID", "Rows", "SliceThickness", "StudyInstanceUID", "Modality"):
            delattr(one, keyword)
        one.save_as(file)
    row = find_series(tree / "p1", progress=False).iloc[0]
    assert (row["patient"], row["modality"], row["study_uid"]) == ("", "", "")
    assert np.isnan([row["rows"], row["slice_thickness"]]).all()


def test_an_empty_tree_and_no_tree(tmp_path: Path) -> None:
    assert find_series(tmp_path, progress=False).empty
    with pytest.raises(NotADirectoryError, match=r"nowhere' is not a folder"):
        find_series(tmp_path / "nowhere", progress=False)
    with pytest.raises(ValueError, match="processes=0: expected a whole number from 1"):
        find_series(tmp_path, progress=False, processes=0)


# --- Identity -------------------------------------------------------------------------


# PS3.15, table E.1-1 (2024b): group, and its elements; dates, times and UIDs are not copied here.
PROFILE = """
0008: 0050 0054 0055 0080 0081 0082 0090 0092 0094 0096 009C 009D 0106 0107 0201 1000 1010 1030
    103E 1040 1041 1048 1049 1050 1052 1060 1062 1070 1072 1080 1084 1088 1110 1111 1120 1140
    2111 2112 4000
0010: 0010 0020 0021 0040 0050 0101 0102 1000 1001 1002 1005 1010 1020 1030 1040 1050 1060 1080
    1081 1090 1100 2000 2110 2150 2152 2154 2155 2160 2180 21A0 21B0 21C0 21F0 2203 2297 2299
    4000
0012: 0010 0020 0021 0022 0023 0030 0031 0032 0040 0041 0042 0043 0050 0051 0055 0060 0071 0072
    0073 0081 0082
0016: 002B 004B 004D 004E 004F 0050 0051 0070 0071 0072 0073 0074 0075 0076 0077 0078 0079 007A
    007B 007C 007D 007E 007F 0080 0081 0082 0083 0084 0085 0086 0087 0088 0089 008A 008B 008C
    008D 008E
0018: 0010 1000 1004 1005 1007 1008 1009 100A 1030 11BB 1400 4000 5011 700A 9185 9367 9371 9373
    937B 937F 9424 9623 9937 A003
0020: 0010 0027 3401 3406 4000 9158
0028: 4000
0032: 0012 1020 1021 1030 1032 1033 1060 1066 1067 1070 4000
0034: 0001 0002 0005 0007
0038: 0004 0010 0011 0014 001E 0040 0050 0060 0061 0062 0064 0300 0400 0500 4000
003A: 0329 032B
0040: 0001 0006 0007 0009 000B 0010 0011 0012 0241 0242 0243 0253 0254 0275 0280 0310 050A 0512
    0513 051A 0551 0555 0562 0600 0602 0610 06FA 1001 1002 1004 1005 100A 1010 1011 1101 1102
    1103 1104 1400 2001 2008 2009 2010 2011 2016 2017 2400 3001 4025 4027 4028 4030 4034 4035
    4036 4037 A027 A073 A075 A078 A07A A07C A088 A123 A307 A352 A353 A354 A358 A730 DB06 DB07
0042: 0011
0050: 001B 0020 0021
006A: 0005 0006
0070: 0001 0084 0086
0072: 005E 005F 0065 0066 0068 006C 006D 006E 0070 0071
0074: 1234 1236
0088: 0200 0904 0906 0910 0912
0400: 0115 0310 0402 0403 0404 0550 0551 0552 0561 0563 0564 0565 0600
2030: 0020
2100: 0070 0140
2200: 0002 0005
3002: 0121 0123
3006: 0002 0004 0006 0026 0028 0038 004D 004E 0085 0088 00A6
3008: 0105
300A: 0002 0003 0004 000B 000E 0016 0072 00B2 00C3 00DD 0196 01A6 01B2 0216 02EB 0608 0611 0615
    0619 0623 062A 0676 067C 067D 0734 0742 0783 078E 0792 0794 079A
300C: 0113
300E: 0008
3010: 000F 0017 001B 002D 0033 0034 0035 0036 0037 0038 0043 0054 0056 005A 005C 0061 0077 007A
    007B 007F 0081
4000: 0010 4000
4008: 0040 0042 0102 010A 010B 010C 0111 0114 0115 0118 0119 011A 0200 0202 0300 4000
5000: 3000
6000: 3000 4000
FFFA: FFFA
FFFC: FFFC
"""
BARE_REFERENCES = {  # their items hold UIDs, which are listed one by one
    "ReferencedStudySequence", "ReferencedPerformedProcedureStepSequence",
    "ReferencedImageSequence", "SourceImageSequence",
}  # fmt: skip


def test_the_words_of_the_list_are_those_of_the_standard() -> None:
    keywords = [k for kind in _profile.KINDS.values() for k in kind]
    assert [k for k in keywords if tag_for_keyword(k) is None] == []
    assert len(set(keywords)) == len(keywords)


def test_everything_in_the_profile_of_the_standard_has_a_kind() -> None:
    group, missed, count = "", set(), 0
    for word in PROFILE.split():
        if word.endswith(":"):
            group = word[:-1]
            continue
        tag, count = int(group + word, 16), count + 1
        if not _profile.kind_of(keyword_for_tag(tag), dictionary_VR(tag)):
            missed.add(keyword_for_tag(tag))
    assert count == 405
    assert missed == BARE_REFERENCES


@pytest.mark.parametrize(
    ("keyword", "vr"),
    [("Rows", "US"), ("PixelData", "OW"), ("SOPClassUID", "UI"), ("Modality", "CS"), ("KVP", "DS")],
)
def test_what_says_nothing_of_a_person(keyword: str, vr: str) -> None:
    assert _profile.kind_of(keyword, vr) == ""


def test_a_phantom_says_almost_nothing(tree: Path) -> None:
    table = identity(tree / "p1/a").set_index("keyword")
    assert set(table.index) == {
        "DerivationDescription", "FrameOfReferenceUID", "MediaStorageSOPInstanceUID", "PatientID",
        "SOPInstanceUID", "SeriesDescription", "SeriesInstanceUID", "StudyInstanceUID",
    }  # fmt: skip
    assert table.loc["PatientID"].to_dict() == {
        "tag": "(0010,0020)",
        "kind": "number of a person or visit",
        "n_files": 3,
        "n_values": 3,
        "shortest": 2,
        "longest": 2,
    }


def fill(file: Path) -> None:
    """Every kind of identifying attribute, also nested, private and in the preamble."""
    one = pydicom.dcmread(file)
    one.PatientName = f"{SECRET}^ANNA"
    one.PatientBirthDate = "19500101"
    one.PatientAge = "061Y"
    one.AccessionNumber = "Z123"
    one.InstitutionName = SECRET
    one.DeviceSerialNumber = SECRET
    one.PatientComments = SECRET * 30
    one.PatientSex = ""
    one.BurnedInAnnotation = "YES"
    del one.PatientIdentityRemoved
    item = pydicom.Dataset()
    item.RequestedProcedureID = SECRET
    item.ScheduledProcedureStepDescription = SECRET
    one.RequestAttributesSequence = [item, item]
    # a name in a place that is not on the list
    one.add_new(0x00081052, "PN", None)
    one.PersonIdentificationCodeSequence = [pydicom.Dataset()]
    one.ActualHumanPerformersSequence = [pydicom.Dataset()]
    one.ActualHumanPerformersSequence[0].HumanPerformerName = f"{SECRET}^B"
    block = one.private_block(0x0009, "ACME", create=True)
    block.add_new(0x01, "LO", SECRET)
    one.file_meta.SourceApplicationEntityTitle = SECRET
    one.preamble = SECRET.encode().ljust(128, b"\0")
    one.save_as(file)


def test_everything_that_identifies_is_listed_and_nothing_is_shown(tree: Path) -> None:
    files = sorted((tree / "p1/a").iterdir())
    for file in files[:2]:
        fill(file)
    files[2].write_bytes(b"x" * 300)
    table = identity(tree / "p1/a")
    by_name = table.set_index("keyword")
    for keyword, kind in {
        "PatientName": "name",
        "PatientBirthDate": "date or time",
        "PatientAge": "about the person",
        "AccessionNumber": "number of a person or visit",
        "InstitutionName": "institution",
        "DeviceSerialNumber": "device",
        "PatientComments": "free text",
        "HumanPerformerName": "name",
        "SourceApplicationEntityTitle": "device",
        "SeriesInstanceUID": "unique identifier",
    }.items():
        assert by_name.loc[keyword, "kind"] == kind, keyword
        assert by_name.loc[keyword, "n_files"] == 2
    assert by_name.loc["RequestedProcedureID", "n_values"] == 4
    assert by_name.loc["PatientComments", "longest"] == 300
    assert "PatientSex" not in by_name.index
    kinds = table.set_index("kind")["n_files"]
    assert kinds["bytes before the header"] == 2
    assert kinds["does not say that identity was removed"] == 2
    assert kinds["does not say that no text is burned into the pixels"] == 2
    assert kinds["not readable as DICOM, so not checked"] == 1
    private = table[table["kind"] == "private"].iloc[0]
    assert (private["tag"], private["n_files"], private["n_values"]) == ("(0009,xxxx)", 2, 4)
    assert SECRET not in table.to_csv()
    assert "1950" not in table.to_csv()
    assert "ACME" not in table.to_csv()


def test_what_stands_behind_the_pixels_and_over_them(tree: Path) -> None:
    file = tree / "p1/a/slice-0000.dcm"
    one = pydicom.dcmread(file)
    one.add_new(0x60003000, "OW", b"\1\2" * 8)
    one.add_new(0xFFFCFFFC, "OB", SECRET.encode())
    one.add_new(0x00110010, "LO", SECRET)
    one.add_new(0x00080099, "LO", SECRET)  # the dictionary does not know it
    one.save_as(file)
    table = identity(file)
    kinds = table.set_index("tag")["kind"]
    assert kinds["(6000,3000)"] == kinds["(FFFC,FFFC)"] == "picture or document"
    assert kinds["(0011,xxxx)"] == "private"
    assert kinds["(0008,0099)"] == "unknown attribute"
    assert SECRET not in table.to_csv()
    file.write_bytes(file.read_bytes()[:-30])  # truncated pixels hide nothing in the header
    assert "(6000,3000)" in set(identity(file)["tag"])


NAME = b"\x10\0\x10\0PN\x04\0ANNA"


def nest_without_lengths(depth: int) -> bytes:
    opened = b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return opened * depth + NAME + closed * depth


def nest_with_lengths(depth: int) -> bytes:
    raw = NAME
    for _ in range(depth):
        item = b"\xfe\xff\0\xe0" + struct.pack("<I", len(raw)) + raw
        raw = b"\x40\0\x75\x02SQ\0\0" + struct.pack("<I", len(item)) + item
    return raw


@pytest.mark.parametrize("nest", [nest_without_lengths, nest_with_lengths])
@pytest.mark.parametrize("depth", [50, 5000])
def test_a_deep_nest_of_sequences(tree: Path, nest: Callable[[int], bytes], depth: int) -> None:
    file = tree / "p1/a/slice-0000.dcm"
    with file.open("ab") as out:
        out.write(nest(depth))
    table = identity(file)
    if depth == 50:
        count = table.set_index("keyword")["n_values"]
        assert (count["PatientName"], count["RequestAttributesSequence"]) == (1, 50)
    else:
        assert table["kind"].str.contains("not readable|cannot be parsed").any()
    assert len(find_series(tree, progress=False)) == 3


def test_nothing_to_look_at(tmp_path: Path) -> None:
    assert identity(tmp_path).empty
    with pytest.raises(FileNotFoundError, match="nowhere"):
        identity(tmp_path / "nowhere")
