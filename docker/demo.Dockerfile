# faceattr-demo: the page to try a trained run. From the root of the repository:
#   docker build --file=docker/demo.Dockerfile --tag=faceattr-demo .
#   docker run --rm --read-only --tmpfs=/tmp --cap-drop=ALL --publish=127.0.0.1:8000:8000 \
#     --volume="$PWD/work/mtfl:/workdir:ro" faceattr-demo
# Then http://127.0.0.1:8000 is the page, for this machine alone.
FROM python:3.13-slim-bookworm

WORKDIR /source
COPY setup.cfg setup.py README.md LICENSE ./
COPY data_pipelines/ data_pipelines/
COPY faceattr_tf/ faceattr_tf/
COPY export/ export/
RUN pip install --no-cache-dir /source \
    && useradd --uid 10001 --create-home faceattr

USER 10001:10001
WORKDIR /home/faceattr
EXPOSE 8000
ENTRYPOINT ["faceattr-demo"]
# The command's own 127.0.0.1 would be that of the container, which not even its host reaches. Who
# reaches the page is decided by --publish above: with 127.0.0.1 in it, this machine alone.
CMD ["--workdir=/workdir", "--host=0.0.0.0"]
