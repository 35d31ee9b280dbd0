"""Write readings for millions of prompts on Spark: Parquet in, Parquet out.

    python examples/spark.py models:/cartas-ptt5@champion pedidos.parquet leituras.parquet
    spark-submit examples/spark.py models:/cartas-ptt5@champion hdfs:///pedidos hdfs:///leituras --partitions 2000

The columns of the prompts are those of the model (``carta``, ``evento``, ``secao``, ``tema``); others come through. The
output has ``texto`` and ``erro`` besides, one of them empty: a row that cannot be answered has its reason there, and
does not end the job.

- Resources: a Python process answers for each task that runs at a time, and each holds the model. Spark gives it as
  many threads as ``spark.task.cpus``; one per process is the fastest for many prompts.
- Loading: on a cluster MLflow sends the model's files to each executor once, and each of its processes loads them once.
  With a local master it loads them for each task; that is why there is one task per process then.
- Batches: Arrow hands over ``serving.max_rows`` of the model's rows at a time, as many as one request may have.
"""

from __future__ import annotations

import argparse

import mlflow.models
import mlflow.pyfunc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql.functions import col, struct

RESULT = "texto string, erro string"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="models:/cartas-ptt5@champion, models:/m-…")
    parser.add_argument("prompts", help="Parquet com os pedidos")
    parser.add_argument("output", help="Parquet com as leituras; o que já estiver lá é substituído")
    parser.add_argument("--partitions", type=int, help="tarefas (padrão: uma por processo)")
    parser.add_argument("--beams", type=int, help="feixes da busca (padrão: os do treino)")
    options = parser.parse_args()
    spark = SparkSession.builder.appName("cartas-mlflow").getOrCreate()
    readings = write_readings(
        spark, options.model, spark.read.parquet(options.prompts), options.partitions, options.beams
    )
    readings.write.mode("overwrite").parquet(options.output)
    written = spark.read.parquet(options.output)
    refused = written.where(col("erro") != "")
    print(f"✅ {written.count()} linhas em {options.output}, {refused.count()} delas sem leitura (coluna erro)")
    spark.stop()


def write_readings(
    spark: SparkSession, model: str, prompts: DataFrame, partitions: int | None = None, beams: int | None = None
) -> DataFrame:
    """The prompts with ``texto`` and ``erro``, to be computed when someone asks.

    Args:
        model: URI of a logged or registered model.
        partitions: tasks; None: one per process, which Spark then has to do again whole if it is lost.
        beams: None: the training's.
    """
    information = mlflow.models.get_model_info(model)
    rows = information.flavors["python_function"]["config"]["serving.max_rows"]
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(rows))
    params = {"error_column": True} | ({} if beams is None else {"num_beams": beams})
    generate = mlflow.pyfunc.spark_udf(spark, model, result_type=RESULT, env_manager="local", params=params)
    tasks = prompts.repartition(partitions or spark.sparkContext.defaultParallelism)
    answered = tasks.withColumn("_leitura", generate(_fields(information, prompts)))
    return answered.select(*prompts.columns, "_leitura.texto", "_leitura.erro")


def _fields(information: mlflow.models.model.ModelInfo, prompts: DataFrame) -> Column:
    """The columns that the model knows, in one: so they reach it under their names."""
    known = information.signature.inputs.input_names()
    return struct(*(col(name).cast("string").alias(name) for name in known if name in prompts.columns))


if __name__ == "__main__":
    main()
