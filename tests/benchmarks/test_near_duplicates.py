"""How similar copies and any two images are."""

import near_duplicates
import numpy as np

from otcxr_sk.datasets import make_chest_phantoms


def test_near_duplicates_are_measured_on_copies_and_on_pairs(tmp_path, capsys):
    phantoms = make_chest_phantoms(60, images_per_patient=1, image_size=32, random_state=0)
    images = np.concatenate([phantoms.images[:59], phantoms.images[:1]])
    kinds = [("bacteria", "virus")[i % 2] for i in range(60)]
    names = [f"person{i // 4}_{kind}_{i}.png" for i, kind in enumerate(kinds)]
    known = {"patient_ids": phantoms.groups, "file_names": names, "labels": np.arange(60) % 2}
    np.savez(tmp_path / "phantoms.npz", images=images, **known)
    (tmp_path / "files").mkdir()
    np.save(tmp_path / "files" / "0.npy", phantoms.images[0])
    figure = tmp_path / "pairs.png"
    words = f"{tmp_path}/phantoms.npz --classes labels --copies 5 --files {tmp_path}/files"
    near_duplicates.main([*words.split(), "--figure", str(figure)])
    printed = capsys.readouterr().out
    assert "1770 pairs of 60 images" in printed
    assert "array: among 60 images, 1 pair looks the same" in printed
    assert "files: among 1 image, 0 pairs look the same" in printed
    assert figure.stat().st_size
