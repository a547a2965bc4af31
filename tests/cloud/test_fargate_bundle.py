"""The server's way into a task: from a bucket with whatever the image has to fetch it, or with pip."""

from __future__ import annotations

import os
import shutil
import site
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import swerex
from swerex.exceptions import DeploymentStartupError
from swerex.runtime.abstract import Command
from tests.cloud.fargate_aws import error
from tests.cloud.fargate_cloud import FargateCloud, Image
from tests.util import needs, wait_until

_BUCKET = "bundles"
_BASE = ["cat", "date", "mkdir", "rm", "sh", "sleep"]


@pytest.fixture(scope="module", autouse=True)
def bucket(cloud: FargateCloud) -> None:
    cloud.aws_client("s3").create_bucket(Bucket=_BUCKET)


@pytest.fixture(autouse=True)
def nothing_is_left(cloud: FargateCloud):
    yield
    wait_until(lambda: not cloud.running())


def image_with(cloud: FargateCloud, *programs: str, base: Sequence[str] = _BASE) -> str:
    """An image in which there are these programs, and hardly any others."""
    name = "-".join((*base, *programs))
    folder = cloud.folder / name
    if not folder.exists():
        folder.mkdir()
        for program in (*base, *programs):
            needs(program)
            (folder / program).symlink_to(Path(shutil.which(program, path="/usr/bin:/bin") or "").resolve())
    cloud.images[name] = Image({"PATH": str(folder)})
    return name


def objects(cloud: FargateCloud) -> list[str]:
    listed = cloud.aws_client("s3").list_objects_v2(Bucket=_BUCKET)
    return [item["Key"] for item in listed.get("Contents", [])]


@pytest.mark.parametrize(
    "programs",
    [("curl", "tar", "gzip", "sha256sum"), ("wget", "tar", "gzip"), ("busybox",), ("python3",)],
    ids=lambda programs: programs[0],
)
def test_bundle_comes_with_what_the_image_has(cloud, programs):
    image = image_with(cloud, *programs)
    with cloud.deployment(image=image, bundle_bucket=_BUCKET) as deployment:
        assert deployment.runtime.execute(Command(command="echo $PATH")).stdout.endswith(f"/{image}\n")
    assert len(objects(cloud)) == 1, "it is put into the bucket once"


def test_busybox_stands_in_for_all_that_is_needed(cloud):
    image = image_with(cloud, "busybox", base=["sh"])
    with cloud.deployment(image=image, bundle_bucket=_BUCKET, container_timeout=8) as deployment:
        assert deployment.is_alive()
        folder = cloud.started[deployment.task_arn].log.parent
        [bundle] = folder.glob("swerex-*/")
        assert not (bundle / "bundle.tar.gz").exists()
        wait_until(lambda: not cloud.running(), timeout=20)
        assert "container_timeout, 8 s, is over" in deployment.is_alive(timeout=0.5).message


@pytest.mark.parametrize(("base", "program"), [(["sh", "mkdir"], "sleep"), (["sh", "sleep"], "mkdir")])
def test_an_image_in_which_a_program_is_missing_says_so(cloud, base, program):
    with pytest.raises(DeploymentStartupError, match=f"the image needs {program}, or busybox"):
        cloud.deployment(image=image_with(cloud, base=base), bundle_bucket=_BUCKET).start()


def test_nothing_of_the_bundle_is_in_the_environment_of_commands(cloud):
    with cloud.deployment(image=image_with(cloud, "busybox"), bundle_bucket=_BUCKET) as deployment:
        env = deployment.runtime.execute(Command(command=["busybox", "env"])).stdout
    names = {line.partition("=")[0] for line in env.splitlines()}
    assert names - {"PATH", "HOME", "TMPDIR", "TERM", "PAGER", "GIT_PAGER", "MANPAGER", "PWD"} == set()


def test_a_task_definition_does_not_hold_the_address(cloud):
    with cloud.deployment(image=image_with(cloud, "busybox"), bundle_bucket=_BUCKET):
        task = cloud.started[cloud.tasks()[-1].task_arn]
        assert "Signature" in task.env["SWEREX_BUNDLE_URL"]
        assert task.env["SWEREX_BUNDLE_URL"] not in " ".join(task.argv)


def test_a_bundle_is_put_there_without_the_right_to_list(cloud):
    cloud.aws_client("s3").create_bucket(Bucket="unlisted")
    cloud.aws.plan("HEAD s3", error("403", "Forbidden", 403))
    with cloud.deployment(image=image_with(cloud, "busybox"), bundle_bucket="unlisted") as deployment:
        assert deployment.is_alive()


@pytest.mark.parametrize("programs", [("curl", "tar", "gzip", "sha256sum"), ("busybox",), ("python3",)])
def test_a_damaged_bundle_does_not_start(cloud, programs):
    image = image_with(cloud, *programs)
    [key] = objects(cloud)
    s3 = cloud.aws_client("s3")
    whole = s3.get_object(Bucket=_BUCKET, Key=key)["Body"].read()
    s3.put_object(Bucket=_BUCKET, Key=key, Body=whole[:-100])
    try:
        with pytest.raises(DeploymentStartupError, match="the bundle arrived damaged"):
            cloud.deployment(image=image, bundle_bucket=_BUCKET).start()
    finally:
        s3.put_object(Bucket=_BUCKET, Key=key, Body=whole)


def test_a_bundle_that_was_removed_is_put_there_again_by_the_next_start(cloud):
    image = image_with(cloud, "curl", "tar", "gzip")
    [key] = objects(cloud)
    with cloud.deployment(image=image, bundle_bucket=_BUCKET):
        cloud.aws_client("s3").delete_object(Bucket=_BUCKET, Key=key)
        with pytest.raises(DeploymentStartupError, match="could not be fetched"):
            cloud.deployment(image=image, bundle_bucket=_BUCKET).start()
        with cloud.deployment(image=image, bundle_bucket=_BUCKET) as deployment:
            assert deployment.is_alive()


def test_an_image_that_can_fetch_nothing_says_what_it_needs(cloud):
    with pytest.raises(DeploymentStartupError, match=r"(?s)curl: not found.*needs curl, wget or python3"):
        cloud.deployment(image=image_with(cloud, "tar"), bundle_bucket=_BUCKET).start()


def test_a_bucket_that_is_not_there(cloud):
    with pytest.raises(DeploymentStartupError, match="the bucket that `bundle_bucket` names"):
        cloud.deployment(bundle_bucket="no-such-bucket").start()


def test_pip_brings_the_server_where_there_is_none(cloud, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    make_wheel(wheels)
    venv.create(tmp_path / "venv")
    # pip, and what the server depends on, are those of this Python: nothing comes from the network.
    [packages] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    cloud.images["pip"] = Image(
        {
            "PATH": f"{tmp_path}/venv/bin:/usr/bin:/bin",
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_FIND_LINKS": str(wheels),
        }
    )
    with cloud.deployment(image="pip") as deployment:
        assert deployment.runtime.execute(Command(command="echo hello")).stdout == "hello\n"
        [installed] = (cloud.started[deployment.task_arn].log.parent).glob("swerex-*/swerex/server.py")
        assert installed.is_file()


def make_wheel(folder: Path) -> None:
    """A wheel of the package that is tested."""
    source = Path(swerex.__file__).parent
    info = f"swerex-{swerex.__version__}.dist-info"
    with zipfile.ZipFile(folder / f"swerex-{swerex.__version__}-py3-none-any.whl", "w") as wheel:
        for path in source.rglob("*.py"):
            wheel.write(path, path.relative_to(source.parent))
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: swerex\nVersion: {swerex.__version__}\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        names = [f"{name},,\n" for name in wheel.namelist()]
        wheel.writestr(f"{info}/RECORD", "".join([*names, f"{info}/RECORD,,\n"]))
    assert os.path.getsize(wheel.filename or "")
