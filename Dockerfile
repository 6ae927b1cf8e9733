# docker build --tag kdcache . && docker run --rm --volume "$PWD:/work" kdcache --help
FROM python:3.11-slim

COPY . /src
# The build of torch for CPUs; leave --index-url out for NVIDIA GPUs.
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir "/src[remote]" \
    && rm -r /src

WORKDIR /work
ENTRYPOINT ["kdcache"]
