import shutil

import pytest

from otcxr_sk import datasets

LOADERS = [
    datasets.load_chexpert,
    datasets.load_kermany,
    datasets.load_mimic_cxr,
    datasets.load_montgomery,
    datasets.load_nih,
    datasets.load_rsna_pneumonia,
    datasets.load_shenzhen,
    datasets.load_siim_pneumothorax,
    datasets.load_vindr_cxr,
]


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)
def test_the_error_for_an_empty_folder_says_what_to_download_and_where(load, tmp_path):
    pages = "NIH Clinical Center|PhysioNet|Kaggle|Stanford AIMI|National Library of Medicine"
    with pytest.raises(FileNotFoundError, match=f"download .*({pages})"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"nowhere is not a folder; .*({pages})"):
        load(tmp_path / "nowhere")


def test_without_any_image_dropping_is_refused_too(published):
    nih = published("nih")
    for folder in ("images_001", "images_002"):
        shutil.rmtree(nih.root / folder)
    nih.tree("images_001.tar.gz").touch()
    with pytest.raises(FileNotFoundError, match=r"4 of 4 .*\(unpack 'images_001\.tar\.gz' first\)"):
        nih.load(missing="drop")


def test_two_tables_of_the_same_name_are_refused(published):
    nih = published("nih")
    for folder in ("one", "two"):
        nih.tree.text(f"{folder}/test_list.txt", "00000003_000.png")
    (nih.root / "test_list.txt").unlink()
    with pytest.raises(ValueError, match=r"one.test_list\.txt and .*two.* both exist"):
        nih.load()


def test_two_images_of_the_same_name_are_refused(published):
    nih = published("nih")
    nih.tree.images("copies/00000005_000.png")
    with pytest.raises(ValueError, match=r"are both image '00000005_000\.png'"):
        nih.load()


def test_links_are_followed_and_may_be_circular(published, tmp_path):
    nih = published("nih")
    before = nih.load()
    shutil.move(nih.root / "images_001", tmp_path / "elsewhere")
    (nih.root / "images_001").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (nih.root / "images_002" / "up").symlink_to(nih.root, target_is_directory=True)
    (nih.root / "images_002" / "top").symlink_to("/", target_is_directory=True)
    assert nih.load().paths == before.paths
