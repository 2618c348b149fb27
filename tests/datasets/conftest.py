"""Published data sets in miniature: layout, file names, columns and a few images."""

import gzip
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from otcxr_sk import datasets

SIZE = (12, 10)  # rows, columns


class Tree:
    """A folder to write into."""

    def __init__(self, root):
        self.root = root
        self.drawn = 0

    def __call__(self, name):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def text(self, name, *lines):
        data = "".join(f"{line}\n" for line in lines).encode()
        self(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    def pixels(self):
        self.drawn += 1
        return np.random.default_rng(self.drawn).integers(0, 256, SIZE, dtype=np.uint8)

    def images(self, *names, pixels=None):
        for name in names:
            Image.fromarray(self.pixels() if pixels is None else pixels).save(self(name))

    def dicom(self, name, **tags):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
        dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME2"
        dataset.Rows, dataset.Columns = SIZE
        dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelData = self.pixels().tobytes()
        with warnings.catch_warnings():
            # SIIM's ages are not in the format of the standard.
            warnings.simplefilter("ignore")
            for keyword, value in tags.items():
                setattr(dataset, keyword, value)
            dataset.save_as(self(name), enforce_file_format=True)


def nih(tree):
    tree.text(
        "Data_Entry_2017_v2020.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
        "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143,",
        "00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143,",
        "00000003_000.png,Hernia,0,3,74,F,AP,2500,2048,0.168,0.168,",
        "00000005_000.png,No Finding,0,5,69,F,PA,2048,2500,0.168,0.168,",
    )
    tree.text("train_val_list.txt", "00000001_000.png", "00000001_001.png", "00000005_000.png")
    tree.text("test_list.txt", "00000003_000.png")
    tree.text(
        "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        "00000001_001.png,Cardiomegaly,225.5,547.25,86.5,79.75",
        "00000003_000.png,Infiltrate,10,20,30,40,,,",
    )
    tree.images(*(f"images_001/images/00000001_00{i}.png" for i in (0, 1)))
    tree.images("images_002/images/00000003_000.png", "images_002/images/00000005_000.png")


VINDR = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,"
    "Edema,Emphysema,Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,"
    "Mediastinal shift,Nodule/Mass,Pleural effusion,Pleural thickening,Pneumothorax,"
    "Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,Tuberculosis,"
    "Other diseases,No finding"
)


def vindr(tree):
    names = VINDR.split(",")

    def row(*found):
        return ",".join("1" if name in found else "0" for name in names)

    tree.text(
        "annotations/image_labels_train.csv",
        f"image_id,rad_id,{VINDR}",
        f"aa11,R8,{row('Cardiomegaly', 'Pneumonia')}",
        f"aa11,R9,{row('Cardiomegaly')}",
        f"aa11,R10,{row('Pleural effusion')}",
        f"bb22,R8,{row('No finding')}",
        f"bb22,R1,{row('No finding')}",
        f"bb22,R2,{row('Other diseases')}",
    )
    tree.text(
        "annotations/image_labels_test.csv",
        f"image_id,{VINDR.replace('Other diseases', 'Other disease')}",
        f"cc33,{row('Other diseases')}",
    )
    tree.text(
        "annotations/annotations_train.csv",
        "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
        "bb22,R8,No finding,,,,",
        "aa11,R9,Cardiomegaly,691.0,1375.5,1653.0,1831.0",
        "aa11,R10,Pleural effusion,1.0,2.0,3.0,4.0",
    )
    tree.text(
        "annotations/annotations_test.csv",
        "image_id,class_name,x_min,y_min,x_max,y_max",
        "cc33,Other lesion,5.0,6.0,7.0,8.0",
    )
    for name in ("train/aa11.dicom", "train/bb22.dicom", "test/cc33.dicom"):
        tree.dicom(name)


def vinbigdata(tree):
    tree.text(
        "train.csv",
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
        "bb22,No finding,14,R11,,,,",
        "aa11,Cardiomegaly,3,R10,691,1375,1653,1831",
        "aa11,Aortic enlargement,0,R10,1264,743,1611,1019",
        "aa11,Cardiomegaly,3,R9,690,1370,1650,1830",
        "aa11,No finding,14,R8,,,,",
        "bb22,No finding,14,R9,,,,",
        "bb22,Cardiomegaly,3,R8,1,2,3,4",
    )
    tree.images("train/aa11.png", "train/bb22.png", "test/dd44.png")


def rsna(tree):
    tree.text(
        "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target",
        "0004cfab-14fd,,,,,0",
        "00436515-870c,264.0,152.0,213.0,379.0,1",
        "00436515-870c,562.0,152.0,256.0,453.0,1",
        "00313ee0-9eaa,,,,,0",
    )
    tree.text(
        "stage_2_detailed_class_info.csv",
        "patientId,class",
        "0004cfab-14fd,No Lung Opacity / Not Normal",
        "00436515-870c,Lung Opacity",
        "00436515-870c,Lung Opacity",
        "00313ee0-9eaa,Normal",
    )
    names = ["0004cfab-14fd", "00436515-870c", "00313ee0-9eaa"]
    for name in names:
        tree.dicom(f"stage_2_train_images/{name}.dcm", PatientID=name)
    tree.dicom("stage_2_test_images/0000a175-0e68.dcm", PatientID="0000a175-0e68")
    origins = ["00000013_005.png", "00000013_011.png", "00000030_001.png", "00000030_000.png"]
    mapping = [
        {"subset_img_id": name, "img_id": origin, "orig_labels": ["No Finding"]}
        for name, origin in zip([*names, "0000a175-0e68"], origins, strict=True)
    ]
    tree("pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))


def siim(tree):
    uid = "1.2.276.0.7230010.3.1"
    tree.text(
        "train-rle.csv",
        "ImageId, EncodedPixels",
        f"{uid}.4.8323329.5597, -1",
        f"{uid}.4.8323329.6904, 14 3 9 2",
        f"{uid}.4.8323329.6904, 100 1",
    )
    for part, number, patient in (
        ("train", 5597, "16d7f894"),
        ("train", 6904, "850ddeb3"),
        ("train", 7777, "6224213b"),
        ("test", 9004, "52c58d10"),
    ):
        tree.dicom(
            f"dicom-images-{part}/{uid}.2.8323329.{number}/{uid}.3.8323329.{number}/"
            f"{uid}.4.8323329.{number}.dcm",
            PatientID=patient,
            PatientSex="M",
            PatientAge="62",
            ViewPosition="PA",
        )


CHEXPERT = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"])
OBSERVATIONS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
    "Support Devices"
)


def chexpert(tree):
    names = [
        "train/patient00001/study1/view1_frontal.jpg",
        "train/patient00002/study2/view1_frontal.jpg",
        "train/patient00002/study1/view2_lateral.jpg",
        "valid/patient64541/study1/view1_frontal.jpg",
    ]
    top = "CheXpert-v1.0-small"
    tree.text(
        f"{top}/train.csv",
        f"{CHEXPERT},{OBSERVATIONS}",
        f"{top}/{names[0]},Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
        f"{top}/{names[1]},Female,87,Frontal,AP,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
        f"{top}/{names[2]},Female,83,Lateral,,,,,1.0,,,-1.0,,,,,,1.0,",
    )
    tree.text(
        f"{top}/valid.csv",
        f"{CHEXPERT},{OBSERVATIONS}",
        f"{top}/{names[3]},Male,73,Frontal,AP,0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
    )
    tree.images(*(f"{top}/{name}" for name in names))


def mimic(tree):
    ids = ["02aa804e-bde0afdd", "174413ec-4ec4c1f7", "2a2277a9-b0ded155", "68b5c4b1-227d0485"]
    tree.text(
        "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,"
        "StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
        "PatientOrientationCodeSequence_CodeMeaning",
        f'{ids[0]},10000032,50414267,"CHEST (PA AND LAT), 2 VIEWS",PA,3056,2544,21800506,'
        "213014.531,CHEST (PA AND LAT),postero-anterior,Erect",
        f"{ids[1]},10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544,21800506,213014.531,"
        "CHEST (PA AND LAT),lateral,Erect",
        f"{ids[2]},10000764,57375967,CHEST (PORTABLE AP),AP,2544,3056,21321015,083045.2,"
        "CHEST (PORTABLE AP),antero-posterior,",
        f"{ids[3]},11000898,50771383,,AP,2544,3056,21880323,163416.0,CHEST (PORTABLE AP),"
        "antero-posterior,",
    )
    tree.text(
        "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split",
        f"{ids[0]},50414267,10000032,train",
        f"{ids[1]},50414267,10000032,train",
        f"{ids[2]},57375967,10000764,validate",
        f"{ids[3]},50771383,11000898,test",
    )
    columns = ",".join(sorted(OBSERVATIONS.split(",")))
    tree.text(
        "mimic-cxr-2.0.0-chexpert.csv.gz",
        f"subject_id,study_id,{columns}",
        "10000032,50414267,,,,,,,,,1.0,,,,,",
        "10000764,57375967,,,1.0,,,,,,,,,-1.0,0.0,",
    )
    tree.text(
        "mimic-cxr-2.0.0-negbio.csv.gz",
        f"subject_id,study_id,{columns}",
        "10000032,50414267,,,,,,,,,1.0,,,,,",
        "10000764,57375967,-1.0,,1.0,,,,,,,,,-1.0,,",
    )
    tree.images(
        f"files/p10/p10000032/s50414267/{ids[0]}.jpg",
        f"files/p10/p10000032/s50414267/{ids[1]}.jpg",
        f"files/p10/p10000764/s57375967/{ids[2]}.jpg",
        f"files/p11/p11000898/s50771383/{ids[3]}.jpg",
    )


def shenzhen(tree):
    tree.images("CXR_png/CHNCXR_0001_0.png", "CXR_png/CHNCXR_0327_1.png")
    tree("CXR_png/Thumbs.db").touch()
    tree.text("ClinicalReadings/CHNCXR_0001_0.txt", "male 45yrs", "normal")
    tree.text("ClinicalReadings/CHNCXR_0327_1.txt", "Female, 24yrs", "bilateral PTB")
    mask = np.zeros(SIZE, np.uint8)
    mask[2:5, 3:9] = 255
    tree.images("mask/CHNCXR_0327_1_mask.png", pixels=mask)


def montgomery(tree):
    names = ["MCUCXR_0001_0", "MCUCXR_0104_1"]
    tree.images(*(f"CXR_png/{name}.png" for name in names))
    for side, columns in (("left", slice(6, 9)), ("right", slice(1, 4))):
        mask = np.zeros(SIZE, bool)
        mask[2:8, columns] = True
        tree.images(*(f"ManualMask/{side}Mask/{name}.png" for name in names), pixels=mask)
    tree.text(
        "ClinicalReadings/MCUCXR_0001_0.txt",
        "Patient's Sex: F",
        "Patient's Age: 027Y",
        "normal",
    )


def kermany(tree):
    tree.images(
        "chest_xray/train/NORMAL/IM-0115-0001.jpeg",
        "chest_xray/train/NORMAL/IM-0549-0001-0002.jpeg",
        "chest_xray/train/NORMAL/NORMAL2-IM-0549-0001.jpeg",
        "chest_xray/train/PNEUMONIA/person1_bacteria_1.jpeg",
        "chest_xray/train/PNEUMONIA/person110_virus_205.jpeg",
        "chest_xray/train/PNEUMONIA/person110_virus_206.jpeg",
        "chest_xray/val/NORMAL/NORMAL2-IM-1427-0001.jpeg",
        "chest_xray/val/PNEUMONIA/person1946_bacteria_4874.jpeg",
        "chest_xray/test/NORMAL/IM-0001-0001.jpeg",
        "chest_xray/test/PNEUMONIA/person1_virus_6.jpeg",
    )
    tree("__MACOSX/chest_xray/train/NORMAL/._IM-0115-0001.jpeg").touch()
    tree("chest_xray/train/NORMAL/.DS_Store").touch()


SETS = {
    "nih": (nih, datasets.load_nih),
    "vindr": (vindr, datasets.load_vindr_cxr),
    "vinbigdata": (vinbigdata, datasets.load_vindr_cxr),
    "rsna": (rsna, datasets.load_rsna_pneumonia),
    "siim": (siim, datasets.load_siim_pneumothorax),
    "chexpert": (chexpert, datasets.load_chexpert),
    "mimic": (mimic, datasets.load_mimic_cxr),
    "shenzhen": (shenzhen, datasets.load_shenzhen),
    "montgomery": (montgomery, datasets.load_montgomery),
    "kermany": (kermany, datasets.load_kermany),
}


@pytest.fixture
def published(tmp_path):
    """Write a data set in miniature; return its folder and a function that loads it."""

    def write(name):
        fill, load = SETS[name]
        tree = Tree(tmp_path / name)
        tree.root.mkdir()
        fill(tree)
        return SimpleNamespace(
            root=tree.root, tree=tree, load=lambda **options: load(tree.root, **options)
        )

    return write


@pytest.fixture(params=SETS)
def each(request, published):
    """Each data set in turn."""
    return published(request.param)
