# faceattr-client: asks a server about pictures. From the root of the repository:
#   docker build --file=docker/client.Dockerfile --tag=faceattr-client .
#   docker run --rm --network=host --volume="$PWD/photos:/photos:ro" faceattr-client \
#     --server=127.0.0.1:8500 /photos
# --network=host reaches a server that listens on this machine alone; leave it out for others.
FROM python:3.13-slim-bookworm

WORKDIR /source
COPY setup.cfg setup.py README.md LICENSE ./
COPY data_pipelines/ data_pipelines/
COPY faceattr_tf/ faceattr_tf/
COPY export/ export/
# TensorFlow comes with the package; --detect finds faces by it.
RUN pip install --no-cache-dir '/source[serving]' \
    && useradd --uid 10001 --create-home faceattr

USER 10001:10001
WORKDIR /home/faceattr
ENTRYPOINT ["faceattr-client"]
CMD ["--help"]
