"""Plain sentences in nine languages from small grammars, so that seeded speech never runs out of things to say."""

from collections.abc import Mapping

import torch

# Each language: who | does | what | when or where. Every choice of one phrase from each column is a sentence.
_GRAMMARS: Mapping[str, tuple[str, str, str, str]] = {
    "en": (
        "the old captain,my youngest sister,a quiet teacher,our new neighbour,the village doctor,that tall boy,"
        "the woman next door,his best friend",
        "bought,carried,found,painted,lost,sold,watched,repaired",
        "seven baskets of fish,a wooden boat,the blue umbrella,two heavy books,an empty bottle,the broken clock,"
        "a loaf of bread,the garden chairs",
        "yesterday,before the storm,at the station,in the early morning,on Friday evening,without a word,"
        "behind the church,after lunch",
    ),
    "de": (
        "der alte Kapitän,meine Schwester,ein ruhiger Lehrer,unsere Nachbarin,der junge Arzt,das kleine Mädchen,"
        "mein bester Freund,die Frau von nebenan",
        "kaufte,suchte,fand,malte,verlor,verkaufte,sah,brachte",
        "sieben Körbe Fisch,ein Boot aus Holz,den blauen Regenschirm,zwei schwere Bücher,eine leere Flasche,"
        "die kaputte Uhr,ein frisches Brot,die Stühle im Garten",
        "gestern Abend,vor dem Sturm,am Bahnhof,früh am Morgen,am Freitag,ohne ein Wort,hinter der Kirche,"
        "nach dem Essen",
    ),
    "fr": (
        "le vieux capitaine,ma petite soeur,un professeur calme,notre voisine,le jeune médecin,cette grande fille,"
        "mon meilleur ami,la dame d'en face",
        "achète,porte,trouve,dessine,perd,vend,regarde,répare",
        "sept paniers de poisson,un bateau en bois,le parapluie bleu,deux gros livres,une bouteille vide,"
        "la vieille horloge,un pain frais,les chaises du jardin",
        "chaque matin,avant la tempête,à la gare,très tôt,vendredi soir,sans un mot,derrière l'église,après le repas",
    ),
    "es": (
        "el viejo capitán,mi hermana menor,un maestro tranquilo,nuestra vecina,el médico joven,esa niña alta,"
        "mi mejor amigo,la señora de al lado",
        "compra,lleva,encuentra,pinta,pierde,vende,mira,arregla",
        "siete cestas de pescado,un barco de madera,el paraguas azul,dos libros pesados,una botella vacía,"
        "el reloj roto,una barra de pan,las sillas del jardín",
        "por la mañana,antes de la tormenta,en la estación,muy temprano,el viernes por la noche,sin decir nada,"
        "detrás de la iglesia,después de comer",
    ),
    "it": (
        "il vecchio capitano,mia sorella,un maestro tranquillo,la nostra vicina,il giovane medico,quella ragazza alta,"
        "il mio migliore amico,la signora accanto",
        "compra,porta,trova,dipinge,perde,vende,guarda,ripara",
        "sette cesti di pesce,una barca di legno,l'ombrello blu,due libri pesanti,una bottiglia vuota,"
        "l'orologio rotto,un pane fresco,le sedie del giardino",
        "ogni mattina,prima della tempesta,alla stazione,molto presto,venerdì sera,senza una parola,"
        "dietro la chiesa,dopo pranzo",
    ),
    "pt": (
        "o velho capitão,minha irmã mais nova,um professor calmo,a nossa vizinha,o jovem médico,aquela menina alta,"
        "o meu melhor amigo,a senhora do lado",
        "compra,leva,encontra,pinta,perde,vende,olha,conserta",
        "sete cestos de peixe,um barco de madeira,o guarda-chuva azul,dois livros pesados,uma garrafa vazia,"
        "o relógio quebrado,um pão fresco,as cadeiras do jardim",
        "toda manhã,antes da tempestade,na estação,muito cedo,na sexta à noite,sem dizer nada,atrás da igreja,"
        "depois do almoço",
    ),
    "nl": (
        "de oude kapitein,mijn jongste zus,een rustige leraar,onze nieuwe buurman,de jonge dokter,dat lange meisje,"
        "mijn beste vriend,de vrouw van hiernaast",
        "koopt,draagt,vindt,schildert,verliest,verkoopt,bekijkt,repareert",
        "zeven manden vis,een houten boot,de blauwe paraplu,twee zware boeken,een lege fles,de kapotte klok,"
        "een vers brood,de stoelen in de tuin",
        "elke ochtend,voor de storm,op het station,heel vroeg,op vrijdagavond,zonder een woord,achter de kerk,"
        "na het eten",
    ),
    "hi": (
        "बूढ़ा कप्तान,मेरी छोटी बहन,एक शांत शिक्षक,हमारा नया पड़ोसी,गाँव का डॉक्टर,वह लंबा लड़का,मेरा सबसे अच्छा दोस्त,पड़ोस की औरत",
        "कल शाम को,तूफ़ान से पहले,स्टेशन पर,सुबह जल्दी,शुक्रवार को,बिना कुछ कहे,मंदिर के पीछे,खाने के बाद",
        "मछली की सात टोकरियाँ,लकड़ी की नाव,नीला छाता,दो भारी किताबें,एक खाली बोतल,टूटी हुई घड़ी,ताज़ी रोटी,बगीचे की कुर्सियाँ",
        "लाएगा,खरीदेगा,ढूँढेगा,देखेगा,बेचेगा,रखेगा,उठाएगा,माँगेगा",
    ),
    "cmn": (
        "老船长,我的妹妹,安静的老师,我们的新邻居,村里的医生,那个高个子男孩,我最好的朋友,隔壁的女人",
        "昨天,暴风雨以前,在车站,一大早,星期五晚上,在教堂后面,午饭以后,下雨的时候",
        "买了,找到了,画了,丢了,卖了,看见了,修好了,带来了",
        "七篮子鱼,一条木船,蓝色的雨伞,两本很重的书,一个空瓶子,那个旧钟,一块面包,花园里的椅子",
    ),
}
LANGUAGES = tuple(_GRAMMARS)
"""Language codes, which are also espeak-ng voices: British English, German, French, ..., Hindi, Mandarin."""


def sentence(language: str, generator: torch.Generator) -> str:
    """One of 4,096 sentences of a language, with its full stop. Raises ValueError for an unknown language."""
    if language not in _GRAMMARS:
        raise ValueError(f"no sentences in {language!r}; there are {', '.join(LANGUAGES)}")
    columns = [column.split(",") for column in _GRAMMARS[language]]
    words = [column[int(torch.randint(len(column), (), generator=generator))] for column in columns]
    return ("" if language == "cmn" else " ").join(words) + "."
