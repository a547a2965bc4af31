# An image that has the server, on any base with bash, Python 3.10 or newer, and its venv module:
#
#   docker build -t sandbox --build-arg BASE_IMAGE=python:3.12 .
#   docker run --rm -e SWEREX_AUTH_TOKEN -p 127.0.0.1:8000:8000 sandbox
#
# The server is in a virtual environment of its own: the Python of the base stays as it is.
ARG BASE_IMAGE=python:3.11

FROM ${BASE_IMAGE} AS build
# For those who have an index of their own; given with --build-arg, as HTTPS_PROXY is.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
USER root
WORKDIR /source
COPY setup.cfg setup.py README.rst LICENSE MANIFEST.in ./
COPY swerex swerex
RUN python3 -m venv /opt/swerex && /opt/swerex/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM ${BASE_IMAGE}
COPY --from=build /opt/swerex /opt/swerex
# Its first line names the interpreter of that environment.
COPY --from=build /opt/swerex/bin/swerex-remote /usr/local/bin/swerex-remote
EXPOSE 8000
CMD ["swerex-remote"]
