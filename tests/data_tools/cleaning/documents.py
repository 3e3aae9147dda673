"""Documents that pass all rules, and functions to write, read and configure cleaning jobs."""

import json
import random
from pathlib import Path

import zstandard

from data_tools.cleaning.clean_config import CleanConfig

CHINESE_NEWS = (
    "新华社北京十一月二十二日电（记者李明）国家统计局今天公布的数据显示，今年前三季度全国居民人均可支配收入"
    "比上年同期增长百分之五点二。统计局发言人在新闻发布会上表示，经济运行总体平稳，就业形势保持稳定。\n\n"
    "会议指出，各地要继续加强基础设施建设，改善农村教育和医疗条件，让更多群众享受到发展的成果。"
    "与会专家认为，科技创新正在成为增长的重要动力，人工智能、新能源汽车等产业在2024年的产值超过了预期……前景广阔。\n\n"
    "“我们对明年的市场充满信心。”一位来自上海的企业负责人告诉记者，公司计划在年底前招聘三百名工程师，"
    "并在成都设立新的研发中心。分析人士提醒，外部环境仍然复杂，企业应当注意防范风险！\n"
)
ENGLISH_STORY = (
    "The old lighthouse keeper climbed the narrow stairs every evening before sunset, carrying a "
    "can of oil and a small brass lamp. From the top he could see fishing boats returning to the "
    "harbour with their nets full of herring.\n\n"
    "One night a heavy storm rolled in from the north. Waves broke over the rocks, and rain beat "
    "against the glass so hard that he hardly heard somebody knocking at his door. It was a young "
    "sailor whose ship had lost its mast, and who had swum ashore with nothing but a rope.\n"
)
THAI = (
    "ประเทศไทยเป็นประเทศที่ตั้งอยู่ในภูมิภาคเอเชียตะวันออกเฉียงใต้ มีกรุงเทพมหานครเป็นเมืองหลวงและศูนย์กลางการค้า "
    "ผู้คนส่วนใหญ่ทำการเกษตร ปลูกข้าว ยางพารา และผลไม้นานาชนิด"
)
KOREAN = (
    "서울은 대한민국의 수도이며 가장 큰 도시이다. 한강을 사이에 두고 남북으로 "
    "나뉘어 있으며, 수많은 궁궐과 현대적인 건물이 함께 자리하고 있다. "
    "해마다 많은 여행자가 이 도시를 찾아와 음식과 문화를 즐긴다."
)
HINDI = (
    "भारत दक्षिण एशिया में स्थित एक विशाल देश है। यहाँ अनेक भाषाएँ बोली जाती हैं और हर प्रदेश की अपनी परंपराएँ "
    "हैं। गंगा नदी के किनारे बसे पुराने नगर आज भी तीर्थयात्रियों को आकर्षित करते हैं, जबकि बड़े शहर नए उद्योगों "
    "के केंद्र बन चुके हैं। किसान गेहूँ, चावल और गन्ना उगाते हैं।"
)
_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "or")]


def random_prose(rng: random.Random, *, words: int = 120) -> str:
    """Makes prose of invented words, different for each call."""
    made = ["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))) for _ in range(words)]
    lines = [" ".join(made[start : start + 12]) + "." for start in range(0, words, 12)]
    return "\n".join(lines) + "\n"


def change_words(text: str, rng: random.Random, *, count: int) -> str:
    """Replaces `count` words that are far apart."""
    words = text.split(" ")
    step = len(words) // count
    for number in range(count):
        words[number * step + rng.randrange(step)] = f"other{number}"
    return " ".join(words)


def write_json_lines(path: Path, records: list) -> Path:
    """Writes records as JSON lines, and strings unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def read_parts(out: Path) -> list[dict]:
    """All documents of a cleaned folder, in order."""
    records = []
    for part in sorted(out.glob("part-*.jsonl.zst")):
        with zstandard.open(part, "rt", encoding="utf-8") as lines:
            records += [json.loads(line) for line in lines]
    return records


def make_config(inputs: Path, out: Path, **sections) -> CleanConfig:
    """The config of a job over one folder or file, with default rules except `sections`."""
    values = {"inputs": [str(inputs)], "out": str(out), **sections}
    return CleanConfig.model_validate(values)
