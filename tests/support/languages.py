"""Sentences of six languages, with what a tokenizer splits without a blank: apostrophes, decimals, quotes, brackets."""

from __future__ import annotations

FRENCH = """\
L'ouverture de l'exposition n'aura lieu qu'en juin.
« C'est l'été », dit-elle d'une voix douce.
Aujourd'hui, le kilo de pommes coûte 3,50 €.
Qu'est-ce que c'est que ça ?
Jusqu'où ira-t-il avec 12,5 % des voix ?
M. Dupont (né en 1968) habite à Aix-en-Provence.
Le train de 8h45 est en retard : il arrivera vers 9h10.
J'ai vu l'homme qui l'a vu.
Il y a 1.500.000 habitants dans l'agglomération.
N'oublie pas : « Rien n'est perdu ! »
Les États-Unis et l'U.E. ont signé l'accord.
Mme Leroy dit qu'elle n'ira pas -- sauf s'il fait beau.
Son adresse est jean.petit@exemple.fr, n'est-ce pas ?
Est-ce vrai… ou non ?
Le match s'est terminé sur le score de 2-1.
C'était l'avant-dernier jour d'école.
La température descend à -3,5 °C la nuit.
D'après l'auteur, « l'art d'aimer » n'existe plus.
Voir p. 12, § 3, al. 2 (c'est-à-dire la note).
L'œuvre d'art [sic] fut vendue 10 000 francs.
Va-t'en, s'il te plaît !
Lorsqu'on aime, on n'a qu'un but : l'autre.
Le prix passe de 4,99 à 5,49 euros/kg.
Presqu'île, aujourd'hui, prud'homme : mots d'hier.
L'a-t-on dit ? Oui, l'on l'a dit.
Sa note : 17/20 ; celle d'Anne : 18,5/20.
C'est écrit "en toutes lettres" sur l'affiche.
Qui l'eût cru (même lui) ?
Le n° 5 d'août–septembre vient d'arriver.
Ils ont gagné 3 à 0 ; l'équipe d'en face n'y était pas."""

ITALIAN = """\
L'apertura dell'esposizione è prevista per giugno.
«Dov'è l'uscita?», chiese all'improvviso.
Un litro d'olio costa 7,80 €.
C'era una volta un re... e un'isola.
Quest'anno l'inflazione è al 2,3%.
Il sig. Rossi (classe '68) vive sull'Appennino.
Dell'acqua, per favore!
Nell'800 l'Italia non c'era ancora.
Tutt'altro che facile, quell'esame.
Partiamo alle 8:45, d'accordo?
L'on. Bianchi ha detto: "Non c'entro".
Po' di pane, po' di vino.
Com'è andata? Così così.
L'80,5% degli italiani è d'accordo.
Dall'alto si vede l'intera città (o quasi).
Un'altra volta, forse — chissà.
È l'unico ch'io conosca.
Scrivi a info@esempio.it, senz'altro.
Sant'Antonio e sant'Agnese: due feste.
Anch'io c'ero, l'anno scorso.
Il risultato fu 3-2 all'ultimo minuto.
L'idea [nuova] dell'autore s'impone.
S'è fatto tardi: andiamocene!
Mezz'ora dopo, all'alba, partirono.
Vent'anni e dell'altro.
Il prezzo è salito da 1,99 a 2,49 euro/kg.
Va' via! Fa' presto, di' tutto.
L'U.E. e gli U.S.A. trattano sull'accordo.
D'estate l'aria è più secca; d'inverno no.
Nient'altro da dire sull'argomento."""

HINDI = """\
भारत की राजधानी नई दिल्ली है।
क्या आप कल आएँगे?
उसने कहा, "मैं घर जा रहा हूँ।"
इस किताब की कीमत ₹250.50 है।
डॉ. शर्मा (जन्म 1968) लखनऊ में रहते हैं।
वह धीरे-धीरे चल रहा था।
कुल 12.5% लोगों ने मतदान किया।
राम ने पूछा: 'तुम कहाँ हो?'
सुबह 8:45 की गाड़ी देर से आई।
माता-पिता और भाई-बहन सब आए!
यह पुस्तक [दूसरा संस्करण] नई है।
जी.एस.टी. की दर 18% है।
उसका पता है: ram@udaharan.in।
क्या यह सच है... या नहीं?
मैच 2-1 से समाप्त हुआ।
तापमान -3.5 डिग्री तक गिर गया।
हाँ, मैं आऊँगा; तुम भी आना।
वर्ष १९४७ में देश स्वतंत्र हुआ।
“सत्यमेव जयते” हमारा आदर्श वाक्य है।
पृ. 12, अनु. 3 देखें (टिप्पणी)।
दिन-रात मेहनत करो — फल मिलेगा।
१,५०,००० लोग सभा में थे।
श्री. वर्मा आए/गए, पता नहीं।
दुःख-सुख जीवन के अंग हैं॥
हिन्दी-अंग्रेज़ी शब्दकोश कहाँ है?
अरे! यह क्या हो गया?
संख्या 3.14159 को पाई कहते हैं।
वह (शायद) कल जाएगा।
क्यों? क्योंकि बारिश हो रही है।
आज का भाव: 4.99 से 5.49 रुपये/किलो।"""

CHINESE = """\
市长昨天宣布了新的计划。
你好,世界!
他说:“我明天不来了。”
这本书的价格是25.50元。
今年的增长率为3.5%。
北京(首都)有2000多万人口。
我喜欢吃苹果、香蕉和葡萄。
你去过《红楼梦》的展览吗?
比赛以2:1结束……真可惜。
请发邮件到wang@example.cn。
第8届会议于2019年5月1日召开。
气温下降到-3.5℃。
小明问:“你在哪里?”
他是A公司的CEO。
这是一个“重要”的问题——非常重要。
我们用Python 3写程序。
面积约为12.5平方公里。
是吗?不是吧!
上午8:45的火车晚点了。
天气很好;我们去公园。
【通知】明天放假。
他买了iPhone手机和U盘。
人均GDP超过1万美元。
老师说他“很努力”,对吗?
从北京到上海要4.5小时。
一、二、三,开始!
请看第12页(注3)。
他得了98.5分,第一名。
WTO成员国共164个。
今天真热啊~"""

JAPANESE = """\
市長は昨日、新しい計画を発表した。
こんにちは、世界!
彼は「明日は来ません」と言った。
この本の値段は2,550円です。
今年の成長率は3.5%だった。
東京(首都)には約1400万人が住んでいる。
りんご、バナナ、ぶどうが好きです。
『源氏物語』を読みましたか?
試合は2対1で終わった……残念だ。
メールはtanaka@example.jpへ送ってください。
第8回会議は2019年5月1日に開かれた。
気温は-3.5℃まで下がった。
「どこにいるの?」と聞いた。
彼はA社のCEOです。
これは“重要”な問題だ——とても。
Python 3でプログラムを書く。
面積は約12.5平方キロメートルだ。
そうですか?違います!
午前8:45の電車が遅れた。
天気がいいので、公園へ行こう。
【お知らせ】明日は休みです。
iPhoneとUSBメモリを買った。
コーヒーとケーキをください。
先生は「よく頑張った」と褒めた。
東京から大阪まで2.5時間かかる。
一、二、三、始め!
12ページ(注3)を見てください。
98.5点で一位になった。
今日は暑いなあ~
がぎぐげご、ぱぴぷぺぽ。"""

THAI = """\
นายกเทศมนตรีประกาศแผนใหม่เมื่อวานนี้
สวัสดีชาวโลก!
เขาพูดว่า "พรุ่งนี้ฉันไม่มา"
หนังสือเล่มนี้ราคา 25.50 บาท
อัตราการเติบโตปีนี้คือ 3.5%
กรุงเทพฯ (เมืองหลวง) มีประชากรกว่า 10 ล้านคน
ฉันชอบกินแอปเปิล กล้วย และองุ่น
คุณเคยอ่าน 'สี่แผ่นดิน' ไหม?
การแข่งขันจบลงด้วยผล 2-1...น่าเสียดาย
ส่งอีเมลไปที่ somchai@example.th
การประชุมครั้งที่ 8 จัดขึ้นเมื่อวันที่ 1 พ.ค. 2562
อุณหภูมิลดลงถึง -3.5 องศา
เธอถามว่า "คุณอยู่ที่ไหน?"
เขาเป็น CEO ของบริษัท A
นี่คือปัญหา "สำคัญ" — สำคัญมาก
เราเขียนโปรแกรมด้วย Python 3
พื้นที่ประมาณ 12.5 ตร.กม.
จริงหรือ? ไม่ใช่!
รถไฟเที่ยว 8:45 น. มาสาย
อากาศดี; เราไปสวนสาธารณะกันเถอะ
[ประกาศ] พรุ่งนี้หยุด
เขาซื้อ iPhone และ USB
เด็กๆ วิ่งเล่นไปมาทุกๆ วัน
ครูบอกว่าเขา "ขยัน" ใช่ไหม
จากกรุงเทพฯ ไปเชียงใหม่ใช้เวลา 1.5 ชั่วโมง
หนึ่ง, สอง, สาม, เริ่ม!
ดูหน้า 12 (หมายเหตุ 3)
เขาได้ 98.5 คะแนน เป็นที่หนึ่ง
ปี ๒๕๖๒ มีผู้เข้าร่วม ๑,๕๐๐ คน
นักวิทยาศาสตร์ค้นพบว่าสิ่งมีชีวิตขนาดเล็กที่อาศัยอยู่ในมหาสมุทรลึกสามารถเจริญเติบโตได้แม้ในสภาพแวดล้อมที่ไม่มีแสงแดดและมีความดันสูงมากเป็นเวลานาน"""

SENTENCES = {
    "French": FRENCH.split("\n"),
    "Italian": ITALIAN.split("\n"),
    "Hindi": HINDI.split("\n"),
    "Chinese": CHINESE.split("\n"),
    "Japanese": JAPANESE.split("\n"),
    "Thai": THAI.split("\n"),
}
