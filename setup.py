"""Packaging of stackctl: one wheel with the controller, the agent it delivers and the playbooks."""

from pathlib import Path

from setuptools import find_packages, setup

RUNTIME = [
    "click>=8.5,<9",
    "drawsvg>=2.4,<3",
    "fabric>=3.2,<4",
    "graphviz>=0.20,<1",
    "paramiko>=3.5,<6",
    "pyroute2>=0.7,<1",
    "pyyaml>=6,<7",
    "rich>=13,<16",
    "sqlite-utils>=4,<5",
    "tabulate>=0.9,<1",
    "wcwidth>=0.6,<1",
]

setup(
    name="stackctl",
    version="0.1.0",
    description="An OpenStack without daemons, run from one command line",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["stackctl*", "agent*", "playbooks*"]),
    package_data={"stackctl": ["py.typed"], "playbooks": ["**/*"]},
    install_requires=RUNTIME,
    extras_require={
        "libvirt": ["libvirt-python>=9,<13"],
        "s3": ["boto3>=1.36,<2"],
        "swift": ["python-swiftclient>=4.4,<5", "keystoneauth1>=5.1,<6"],
    },
    entry_points={"console_scripts": ["stackctl=stackctl.cli.main:main"]},
)
